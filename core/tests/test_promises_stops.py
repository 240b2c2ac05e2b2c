"""What a stop does to the calls that are under way.

In words: docs/write-an-adapter.md, what the engine promises a driver.
"""

from __future__ import annotations

import asyncio

import pytest
from watched import DEADLINE, nothing

from offload import BackendError, BackendUnavailableError, Job, State, Verdict, WorkerStoppedError

pytestmark = pytest.mark.usefixtures("impatient")


@pytest.mark.parametrize("name", ["fetch", "wait", "settle", "subscription.close", "close"])
async def test_a_stop_cancels_what_hangs(name, watched):
    worker, watch = watched("grace=0s")
    worker.register("job", nothing)
    await worker.start()
    await watch.until(lambda: watch.under_way["wait"])
    watch.gates[name] = asyncio.Event()
    await worker.perform(Job("job"))
    if "close" not in name:
        await watch.until(lambda: watch.under_way[name])
    begun = asyncio.get_running_loop().time()
    await worker.stop()
    assert asyncio.get_running_loop().time() - begun < 1.0
    assert name in watch.cancelled


async def test_a_stop_does_not_wait_for_a_verdict_that_is_refused_meanwhile(watched):
    worker, watch = watched("grace=60s")
    worker.register("job", nothing)
    watch.gates["settle"] = asyncio.Event()
    watch.errors["settle"] = [BackendError("refused") for _ in range(10)]
    await worker.start()
    job_id = await worker.perform(Job("job"))
    await watch.until(lambda: watch.under_way["settle"] and watch.under_way["wait"])
    async with asyncio.timeout(DEADLINE):
        stopping = asyncio.create_task(worker.stop())
        await watch.until(lambda: "wait" in watch.cancelled)
        for _ in range(10):  # until it waits for the verdict
            await asyncio.sleep(0)
        watch.gates["settle"].set()
        report = await stopping
    assert report.lost == (job_id,)


async def stop_soon(worker) -> None:
    """Stop a worker whose grace is 0, within the time that it has for that."""
    begun = asyncio.get_running_loop().time()
    await worker.stop()
    assert asyncio.get_running_loop().time() - begun < 1.0


@pytest.mark.parametrize("is_started", [True, False], ids=["started", "never started"])
async def test_a_stop_cancels_an_enqueue_that_hangs_and_sends_nothing_after_it(is_started, watched):
    worker, watch = watched("grace=0s")
    worker.register("job", nothing)
    if is_started:
        await worker.start()
    watch.gates["enqueue"] = asyncio.Event()
    performs = [asyncio.create_task(worker.perform(Job("job"))) for _ in range(3)]
    await watch.until(lambda: watch.under_way["enqueue"])
    await stop_soon(worker)
    assert not +watch.under_way
    assert watch.cancelled.count("enqueue") == 1
    assert ("close", "enqueue") not in watch.overlaps
    sent, *waiting = await asyncio.gather(*performs, return_exceptions=True)
    assert isinstance(sent, BackendUnavailableError)
    assert sent.maybe_stored
    assert [type(error) for error in waiting] == [WorkerStoppedError] * 2
    assert not any(error.maybe_stored for error in waiting)
    assert len(watch.of("enqueue")) == 1
    assert [task.cancelling() for task in performs] == [0] * 3


async def test_a_stop_cancels_a_batch_that_hangs(watched):
    worker, watch = watched("grace=0s")
    worker.register("job", nothing)
    await worker.start()
    watch.gates["enqueue"] = asyncio.Event()
    first = asyncio.create_task(worker.perform(Job("job")))
    await watch.until(lambda: watch.under_way["enqueue"])
    batch = [asyncio.create_task(worker.perform(Job("job"))) for _ in range(3)]
    await asyncio.sleep(0)
    watch.gates.pop("enqueue").set()
    watch.gates["enqueue"] = asyncio.Event()
    await first
    await watch.until(lambda: len(watch.of("enqueue")) == 2)
    await stop_soon(worker)
    assert not +watch.under_way
    errors = await asyncio.gather(*batch, return_exceptions=True)
    assert [(type(each), each.maybe_stored) for each in errors] == [
        (BackendUnavailableError, True)
    ] * 3


async def test_a_perform_of_another_loop_does_not_outlast_a_stop(watched):
    worker, watch = watched("grace=0s", distributed=True)
    await worker.start()
    watch.holds = {"enqueue"}

    async def perform_from_here():
        with pytest.raises(BackendUnavailableError) as caught:
            await worker.perform(Job("job"))
        return caught.value.maybe_stored

    performing = asyncio.create_task(asyncio.to_thread(asyncio.run, perform_from_here()))
    await watch.until(lambda: watch.under_way["enqueue"])
    await stop_soon(worker)
    assert not +watch.under_way
    assert "enqueue" in watch.cancelled
    assert len(watch.of("close")) == 2
    assert "close" in watch.ended[watch.ended.index("enqueue") :]  # that of its own driver
    assert await performing


@pytest.mark.parametrize("call", ["counts", "list_dead"])
async def test_a_stop_cancels_a_look_that_hangs(call, watched):
    worker, watch = watched("grace=0s")
    await worker.start()
    watch.gates[call] = asyncio.Event()
    look = worker.counts() if call == "counts" else worker.dead_letters.list()
    looking = asyncio.create_task(look)
    await watch.until(lambda: watch.under_way[call])
    await stop_soon(worker)
    assert not +watch.under_way
    with pytest.raises(BackendUnavailableError):
        await looking
    watch.gates.clear()
    assert await worker.counts() == {}


@pytest.mark.parametrize("call", ["open", "subscribe"])
async def test_a_stop_cancels_a_start_that_hangs(call, watched):
    worker, watch = watched("grace=0s")
    worker.register("job", nothing)
    watch.gates[call] = asyncio.Event()
    starting = asyncio.create_task(worker.start())
    await watch.until(lambda: watch.under_way[call])
    looks = [asyncio.create_task(worker.counts()) for _ in range(3)]
    await asyncio.sleep(0)
    await stop_soon(worker)
    assert not +watch.under_way
    with pytest.raises(BackendUnavailableError) as caught:
        await starting
    assert not caught.value.maybe_stored
    assert worker.state is State.STOPPED
    await asyncio.gather(*looks, return_exceptions=True)
    watch.gates.clear()
    await worker.start()
    assert worker.state is State.RUNNING


async def test_a_perform_that_opens_does_not_outlast_a_stop(watched):
    worker, watch = watched("grace=0s")
    worker.register("job", nothing)
    watch.gates["open"] = asyncio.Event()
    performs = [asyncio.create_task(worker.perform(Job("job"))) for _ in range(3)]
    await watch.until(lambda: watch.under_way["open"])
    await stop_soon(worker)
    assert not +watch.under_way
    errors = await asyncio.gather(*performs, return_exceptions=True)
    assert [type(error) for error in errors] == [BackendUnavailableError, *[WorkerStoppedError] * 2]
    assert not any(error.maybe_stored for error in errors)
    assert watch.of("enqueue") == []


async def test_a_call_that_the_application_cancels_amid_a_stop_is_cancelled(watched):
    worker, watch = watched("grace=0s")
    worker.register("job", nothing)
    await worker.start()
    watch.gates["enqueue"] = asyncio.Event()
    performing = asyncio.create_task(worker.perform(Job("job")))
    await watch.until(lambda: watch.under_way["enqueue"])
    stopping = asyncio.create_task(worker.stop())
    await asyncio.sleep(0)
    performing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await performing
    await stopping


async def test_a_fetch_and_a_settle_that_end_slowly_have_ended_before_a_close(watched):
    worker, watch = watched("grace=0s")
    worker.register("job", nothing)
    watch.lingers = {"fetch", "settle"}
    watch.gates["settle"] = asyncio.Event()
    await worker.start()
    await worker.perform(Job("job"))
    await watch.until(lambda: watch.under_way["settle"] and watch.under_way["wait"])
    watch.gates["fetch"] = asyncio.Event()
    await worker.perform(Job("job"))
    await watch.until(lambda: watch.under_way["fetch"])
    await stop_soon(worker)
    assert {"fetch", "settle"} <= set(watch.cancelled)
    assert not {("subscription.close", "fetch"), ("subscription.close", "settle")} & watch.overlaps


async def test_a_stop_lets_an_enqueue_end_before_it_closes(watched):
    worker, watch = watched("grace=5s")
    worker.register("job", nothing)
    await worker.start()
    await watch.until(lambda: watch.under_way["wait"])
    watch.gates["enqueue"] = asyncio.Event()
    perform = asyncio.create_task(worker.perform(Job("job")))
    await watch.until(lambda: watch.under_way["enqueue"])
    stopping = asyncio.create_task(worker.stop())
    await watch.until(lambda: "wait" in watch.cancelled)
    for _ in range(50):
        await asyncio.sleep(0)  # all that the stop does without waiting for the call
    watch.gates["enqueue"].set()
    report = await stopping
    assert report.lost == (await perform,)
    assert ("subscription.close", "enqueue") not in watch.overlaps


async def test_a_stop_lets_a_look_end_before_it_closes(watched):
    worker, watch = watched("grace=5s")
    await worker.start()
    watch.gates["counts"] = asyncio.Event()
    looking = asyncio.create_task(worker.counts())
    await watch.until(lambda: watch.under_way["counts"])
    stopping = asyncio.create_task(worker.stop())
    await watch.until(lambda: "wait" in watch.cancelled)
    for _ in range(50):
        await asyncio.sleep(0)  # all that the stop does without waiting for the call
    watch.gates["counts"].set()
    await stopping
    assert await looking == {}
    assert ("close", "counts") not in watch.overlaps


async def test_what_was_opened_on_another_loop_after_a_stop_is_closed_by_the_next(watched):
    worker, watch = watched(distributed=True)
    await worker.start()
    await worker.stop()

    async def look_from_here():
        return await worker.counts()

    await asyncio.to_thread(asyncio.run, look_from_here())
    await worker.counts()
    opened = len(watch.of("open"))
    await worker.stop()
    assert len(watch.of("close")) == opened


async def test_a_fetch_that_is_under_way_at_a_stop_may_end(watched):
    worker, watch = watched("grace=5s")
    worker.register("job", nothing)
    watch.gates["fetch"] = asyncio.Event()
    await worker.start()
    await worker.perform(Job("job"))
    await watch.until(lambda: watch.under_way["fetch"])
    stopping = asyncio.create_task(worker.stop())
    await asyncio.sleep(0)
    assert worker.state is State.STOPPING
    watch.gates["fetch"].set()
    await stopping
    assert "fetch" not in watch.cancelled
    ((settlement,),) = watch.of("settle")
    assert settlement.verdict is Verdict.RELEASE
