"""What one call of `enqueue` brings.

In words: docs/write-an-adapter.md, what the engine promises a driver.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from watched import DEADLINE, away, nothing

import offload_simple
from offload import BackendError, BackendUnavailableError, Job, State, WorkerStoppedError

pytestmark = pytest.mark.usefixtures("impatient")


MIB = 1 << 20
MOST_JOBS = 1000
MOST_BYTES = 4 * MIB


def large(kib: int) -> Job:
    return Job("job", {"text": "x" * (kib << 10)})


def sizes(watch) -> list[tuple[int, int]]:
    """How many jobs each call of `enqueue` brought, and how many bytes of bodies."""
    return [(len(batch), sum(len(entry.body) for entry in batch)) for batch in watch.of("enqueue")]


async def test_no_call_brings_more_than_1000_jobs_or_4_mib(watched):
    worker, watch = watched()
    worker.register("job", nothing)
    many = await worker.perform_many([Job("job")] * 2500)
    assert [jobs for jobs, _ in sizes(watch)] == [1000, 1000, 500]
    assert [entry.id for batch in watch.of("enqueue") for entry in batch] == many
    watch.begun.clear()
    await worker.perform_many([large(1000)] * 50)
    assert [jobs for jobs, _ in sizes(watch)] == [4] * 12 + [2]
    watch.begun.clear()
    await asyncio.gather(*(worker.perform(large(1000)) for _ in range(50)))
    assert sum(jobs for jobs, _ in sizes(watch)) == 50
    assert max(jobs for jobs, _ in sizes(watch)) == 4
    watch.begun.clear()
    await asyncio.gather(*(worker.perform(Job("job")) for _ in range(2500)))
    assert [jobs for jobs, _ in sizes(watch)] == [1, 1000, 1000, 499]


async def test_a_job_that_is_larger_than_a_batch_comes_alone(watched):
    limits = replace(offload_simple.ADAPTER.limits, max_job_bytes=16 * MIB)
    worker, watch = watched(limits=limits)
    worker.register("job", nothing)
    await worker.perform_many([large(1), large(9000), large(1), large(1)])
    assert [jobs for jobs, _ in sizes(watch)] == [1, 1, 2]
    assert sizes(watch)[1][1] > MOST_BYTES


@pytest.mark.parametrize("jobs", [[Job("job")] * 2500, [large(1000)] * 10], ids=["many", "large"])
@pytest.mark.parametrize(
    ("error", "told"),
    [
        (away(), BackendUnavailableError),
        (BackendError("refused"), BackendError),
        (KeyError("a bug"), BackendError),
    ],
    ids=repr,
)
async def test_perform_many_says_when_some_are_stored(jobs, error, told, watched):
    worker, watch = watched()
    worker.register("job", nothing)
    watch.gates["enqueue"] = asyncio.Event()
    call = asyncio.create_task(worker.perform_many(jobs))
    await watch.until(lambda: watch.under_way["enqueue"])
    (first,) = watch.of("enqueue")
    watch.gates.pop("enqueue").set()
    await watch.until(lambda: len(watch.of("enqueue")) == 2)
    watch.errors["enqueue"] = [error]
    with pytest.raises(told, match=f"first {len(first)} of {len(jobs)} jobs are stored") as caught:
        await call
    assert type(caught.value) is told
    assert caught.value.maybe_stored
    assert len(watch.of("enqueue")) == 2
    assert (await worker.counts())["default"].waiting == len(first)


@pytest.mark.parametrize("error", [away(), BackendError("refused"), KeyError("a bug")], ids=repr)
async def test_perform_many_stores_none_when_its_first_batch_fails(error, watched):
    worker, watch = watched()
    worker.register("job", nothing)
    watch.errors["enqueue"] = [error]
    with pytest.raises(type(error)) as caught:
        await worker.perform_many([large(1000)] * 10)
    assert not getattr(caught.value, "maybe_stored", False)
    assert await worker.counts() == {}


async def test_perform_many_amid_a_stop_says_when_some_are_stored(watched):
    worker, watch = watched()
    worker.register("job", nothing)
    await worker.start()
    watch.gates["enqueue"] = asyncio.Event()
    call = asyncio.create_task(worker.perform_many([large(1000)] * 10))
    await watch.until(lambda: watch.under_way["enqueue"])
    stopping = asyncio.create_task(worker.stop())
    await asyncio.sleep(0)
    assert worker.state is State.STOPPING
    watch.gates["enqueue"].set()
    with pytest.raises(WorkerStoppedError, match="first 4 of 10") as caught:
        await call
    assert caught.value.maybe_stored
    await stopping


async def test_perform_many_that_is_cancelled_may_have_stored_some(watched):
    worker, watch = watched()
    worker.register("job", nothing)
    watch.gates["enqueue"] = asyncio.Event()
    call = asyncio.create_task(worker.perform_many([large(1000)] * 10))
    await watch.until(lambda: watch.under_way["enqueue"])
    watch.gates.pop("enqueue").set()
    await watch.until(lambda: len(watch.of("enqueue")) == 2)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert (await worker.counts())["default"].waiting == 4
    await worker.perform(Job("job"))  # and nothing is left of the call
    assert (await worker.counts())["default"].waiting == 5


async def test_an_outage_costs_a_perform_two_calls_of_enqueue_at_most(watched):
    worker, watch = watched()
    worker.register("job", nothing)
    await worker.counts()  # it is open now
    watch.gates["enqueue"] = asyncio.Event()
    watch.errors["enqueue"] = [away() for _ in range(100)]
    performs = [asyncio.create_task(worker.perform(large(1000))) for _ in range(50)]
    await watch.until(lambda: watch.under_way["enqueue"])
    watch.gates["enqueue"].set()
    async with asyncio.timeout(DEADLINE):
        results = await asyncio.gather(*performs, return_exceptions=True)
    assert {type(result) for result in results} == {BackendUnavailableError}
    assert not any(result.maybe_stored for result in results)
    assert len(watch.of("enqueue")) == 2
