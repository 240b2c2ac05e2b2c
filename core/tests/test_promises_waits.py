"""How the engine waits for jobs.

In words: docs/write-an-adapter.md, what the engine promises a driver.
"""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta

import pytest
from watched import DEADLINE, away, nothing

from offload import BackendError, Job

pytestmark = pytest.mark.usefixtures("impatient")


async def test_a_wait_that_always_fails_is_told_once_and_jobs_run_all_the_same(watched, caplog):
    worker, watch = watched()
    ran = asyncio.Event()

    @worker.handler("job")
    async def job(args):
        ran.set()

    watch.errors["wait"] = [BackendError("no hints here") for _ in range(10_000)]
    await worker.start()
    await watch.until(lambda: watch.ended.count("wait") >= 10)
    await worker.perform(Job("job"))
    async with asyncio.timeout(DEADLINE):
        await ran.wait()
    told = [text for text in caplog.messages if "no hints here" in text]
    assert told == [
        "no hint of a job can be waited for, so that jobs may start late: no hints here"
    ]
    watch.errors["wait"].clear()
    await watch.until(lambda: watch.under_way["wait"] and not watch.errors["wait"])
    await worker.perform(Job("job"))
    async with asyncio.timeout(DEADLINE):
        while "the backend is available again" not in caplog.text:
            await asyncio.sleep(0.005)


async def test_an_outage_is_told_beside_waits_that_always_fail(watched, caplog):
    worker, watch = watched()
    watch.errors["wait"] = [BackendError("no hints here") for _ in range(10_000)]
    await worker.start()
    await watch.until(lambda: watch.ended.count("wait") >= 3)
    watch.errors["fetch"] = [away()]
    await watch.until(lambda: not watch.errors["fetch"])
    fetches = len(watch.of("fetch"))
    await watch.until(lambda: watch.ended.count("fetch") > fetches)
    assert "no jobs can be fetched: away" in caplog.messages


async def test_a_wait_that_fails_now_and_then_is_not_told(watched, caplog):
    worker, watch = watched()
    worker.register("job", nothing)
    await worker.start()
    for _ in range(3):
        await watch.until(lambda: watch.under_way["wait"])
        for _ in range(5):
            await asyncio.sleep(0)  # it is past where it would fail
        watch.errors["wait"] = [away()]
        # It ends the wait that is under way. The next one fails, and the one after doesn't.
        await worker.perform(Job("job"))
        await watch.until(lambda: not watch.errors["wait"])
    await watch.until(lambda: watch.under_way["wait"])
    assert caplog.messages == []


async def test_a_wait_with_a_fault_of_its_own_is_told_once_with_its_traceback(watched, caplog):
    worker, watch = watched()
    watch.errors["wait"] = [KeyError("a bug") for _ in range(10_000)]
    await worker.start()
    await watch.until(lambda: watch.ended.count("wait") >= 10)
    (record,) = [record for record in caplog.records if record.exc_info]
    assert "no hint of a job can be waited for" in record.getMessage()


async def test_the_pauses_after_failed_waits_grow(watched, monkeypatch):
    worker, watch = watched()
    paused = []
    monkeypatch.setattr(
        "offload.engine.pause._LENGTH", lambda n: paused.append(n) or timedelta(milliseconds=1)
    )
    watch.errors["wait"] = [away() for _ in range(10_000)]
    await worker.start()
    await watch.until(lambda: watch.ended.count("wait") >= 5)
    assert paused[:4] == [3, 4, 5, 6]


@pytest.mark.parametrize(
    ("next_due_ms", "seconds"), [(1500, 1.5), (4999, 4.999), (20_000, 5.0), (None, 5.0)]
)
@pytest.mark.parametrize("ahead_ms", [0, 3_600_000, -3_600_000], ids="clock {:+}".format)
async def test_a_wait_lasts_until_the_next_job_is_due_by_no_clock_of_the_worker(
    next_due_ms, seconds, ahead_ms, watched, monkeypatch
):
    worker, watch = watched()
    time_ns = time.time_ns
    monkeypatch.setattr("time.time_ns", lambda: time_ns() + ahead_ms * 1_000_000)
    watch.next_due_ms = next_due_ms
    await worker.start()
    await watch.until(lambda: watch.under_way["wait"])
    assert watch.of("wait") == [seconds]
