"""What becomes of a verdict whose call failed.

In words: docs/write-an-adapter.md, what the engine promises a driver.
"""

from __future__ import annotations

import asyncio

import pytest
from faulty import faulty_worker
from watched import DEADLINE, away, nothing

import offload
from offload import BackendError, Job, Verdict

pytestmark = pytest.mark.usefixtures("impatient")


def once(error: BaseException):
    """A fault that comes once."""
    left = [error]
    return lambda: left.pop() if left else None


class Succeeded:
    """Notes what it is told of."""

    def __init__(self, told: list[str]) -> None:
        self._told = told

    @offload.hookimpl
    def job_succeeded(self, job):
        self._told.append(job.id)


@pytest.mark.parametrize("error", [away(), BackendError("refused"), KeyError("a bug")], ids=repr)
async def test_a_verdict_whose_settle_failed_comes_again(error, watched):
    worker, watch = watched()
    worker.register("job", nothing)
    watch.errors["settle"] = [error]
    await worker.start()
    await worker.perform(Job("job"))
    await watch.until(lambda: watch.ended.count("settle") >= 2)
    first, second = watch.of("settle")[:2]
    assert first == second
    assert [settlement.verdict for settlement in first] == [Verdict.ACKNOWLEDGE]
    assert (await worker.counts()) == {}
    await worker.stop()


async def test_a_verdict_comes_again_until_the_worker_stops(watched):
    worker, watch = watched("grace=0s")
    worker.register("job", nothing)
    watch.errors["settle"] = [away() for _ in range(10_000)]
    await worker.start()
    await worker.perform(Job("job"))
    await watch.until(lambda: watch.ended.count("settle") >= 12)
    async with asyncio.timeout(DEADLINE):
        report = await worker.stop()
    tries = len(watch.of("settle"))
    assert len(report.lost) == 1
    await worker.counts()
    assert len(watch.of("settle")) == tries


@pytest.mark.parametrize("error", [away(), KeyError("a bug")], ids=repr)
async def test_a_verdict_that_may_have_been_carried_out_is_told_as_that(error, caplog):
    worker, driver = faulty_worker(after_settle=once(error))
    worker.register("job", nothing)
    succeeded = []
    worker.observe(Succeeded(succeeded))
    await worker.start()
    job_id = await worker.perform(Job("job"))
    async with asyncio.timeout(DEADLINE):
        while job_id not in caplog.text:
            await asyncio.sleep(0.005)
    (line,) = [text for text in caplog.messages if job_id in text]
    assert line == (
        f"job {job_id} (job): a call to acknowledge it failed, and now it is gone: the backend did "
        "it nevertheless, or the lease was lost and another worker may run it again"
    )
    assert driver.subscription.settled == [job_id] * 2
    assert succeeded == []
    await worker.stop()


async def test_a_verdict_that_comes_too_late_is_told_as_that(caplog):
    worker, driver = faulty_worker(after_settle=once(KeyError("a bug")))
    worker.register("job", nothing)
    await worker.start()
    first = await worker.perform(Job("job"))
    async with asyncio.timeout(DEADLINE):
        while first not in caplog.text:
            await asyncio.sleep(0.005)

        async def all_foreign(settlements):
            return [settlement.delivery for settlement in settlements]

        driver.subscription.settle = all_foreign
        job_id = await worker.perform(Job("job"))
        while job_id not in caplog.text:
            await asyncio.sleep(0.005)
    (line,) = [text for text in caplog.messages if job_id in text]
    assert line == (
        f"job {job_id} (job): too late to acknowledge it: its lease was lost, so another worker "
        "may run it again"
    )
    await worker.stop()


async def test_a_verdict_that_hangs_at_a_stop_is_told_as_not_known(watched, caplog):
    worker, watch = watched("grace=0s")
    worker.register("job", nothing)
    await worker.start()
    watch.gates["settle"] = asyncio.Event()
    job_id = await worker.perform(Job("job"))
    await watch.until(lambda: watch.under_way["settle"])
    await worker.stop()
    assert (
        f"job {job_id}: it isn't known whether its verdict is stored; if not, the job runs again "
        "when its lease ends"
    ) in caplog.messages
