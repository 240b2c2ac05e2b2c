"""When a driver is opened, again, and by whom.

In words: docs/write-an-adapter.md, what the engine promises a driver.
"""

from __future__ import annotations

import asyncio

import pytest
from watched import DEADLINE, away, nothing

from offload import BackendUnavailableError, Job, State

pytestmark = pytest.mark.usefixtures("impatient")


async def test_the_engine_calls_again_and_leaves_reconnecting_to_the_driver(watched):
    worker, watch = watched()
    done = asyncio.Event()

    @worker.handler("job")
    async def job(args):
        done.set()

    await worker.start()
    await watch.until(lambda: watch.under_way["wait"])
    for name in ("fetch", "wait", "settle"):
        watch.errors[name] = [away() for _ in range(7)]
    watch.errors["enqueue"] = [away()]
    with pytest.raises(BackendUnavailableError):
        await worker.perform(Job("job"))
    await worker.perform(Job("job"))
    async with asyncio.timeout(DEADLINE):
        await done.wait()
    await watch.until(lambda: not watch.errors["settle"] and not watch.under_way["settle"])
    assert [len(watch.of(name)) for name in ("open", "subscribe", "close")] == [1, 1, 0]
    await worker.stop()


async def test_open_comes_again_after_it_failed_and_after_close(watched):
    worker, watch = watched()
    watch.errors["open"] = [away()]
    with pytest.raises(BackendUnavailableError):
        await worker.start()
    assert worker.state is State.NEW
    await worker.start()
    await worker.stop()
    await worker.start()
    await worker.stop()
    life = [name for name, _ in watch.begun if name in ("open", "subscribe", "close")]
    assert life == ["open", "open", "subscribe", "close", "open", "subscribe", "close"]


async def test_a_start_that_can_not_subscribe_closes_what_it_has_opened(watched):
    worker, watch = watched()
    watch.errors["subscribe"] = [away()]
    with pytest.raises(BackendUnavailableError):
        await worker.start()
    assert watch.ended == ["open", "subscribe", "close"]
    assert worker.state is State.NEW


async def test_a_start_that_can_not_subscribe_leaves_open_what_others_use(watched):
    worker, watch = watched()
    worker.register("job", nothing)
    watch.gates = {"subscribe": asyncio.Event(), "enqueue": asyncio.Event()}
    watch.errors["subscribe"] = [away()]
    starting = asyncio.create_task(worker.start())
    await watch.until(lambda: watch.under_way["subscribe"])
    performing = asyncio.create_task(worker.perform(Job("job")))
    await watch.until(lambda: watch.under_way["enqueue"])
    watch.gates["subscribe"].set()
    with pytest.raises(BackendUnavailableError):
        await starting
    watch.gates["enqueue"].set()
    await performing
    assert worker.state is State.NEW
    assert watch.of("close") == []
    await worker.start()
    assert len(watch.of("open")) == 1
    await worker.stop()
    assert len(watch.of("close")) == 1


@pytest.mark.parametrize("use", ["perform", "counts"])
async def test_a_start_that_can_not_subscribe_leaves_open_what_was_open(use, watched):
    worker, watch = watched()
    worker.register("job", nothing)
    await (worker.counts() if use == "counts" else worker.perform(Job("job")))
    watch.errors["subscribe"] = [away()]
    with pytest.raises(BackendUnavailableError):
        await worker.start()
    assert watch.of("close") == []


@pytest.mark.parametrize("fault", ["raises", "hangs"])
async def test_a_close_that_fails_hides_not_why_a_start_did(fault, watched, caplog):
    worker, watch = watched()
    watch.errors["subscribe"] = [away()]
    if fault == "hangs":
        watch.gates["close"] = asyncio.Event()
    watch.errors["close"] = [KeyError("a bug")]
    async with asyncio.timeout(DEADLINE):
        with pytest.raises(BackendUnavailableError, match="away"):
            await worker.start()
    assert ("close" in watch.cancelled) == (fault == "hangs")
    assert worker.state is State.NEW


async def test_one_open_that_fails_is_the_answer_to_other_loops_too(watched):
    worker, watch = watched(distributed=True)
    await worker.counts()  # it belongs to this loop
    watch.begun.clear()
    watch.holds_open = True
    watch.errors["open"] = [away() for _ in range(100)]

    async def perform_from_here():
        performs = [asyncio.create_task(worker.perform(Job("job"))) for _ in range(20)]
        for _ in range(5):
            await asyncio.sleep(0)  # all of them are on their way by now
        watch.held.set()
        return await asyncio.gather(*performs, return_exceptions=True)

    async with asyncio.timeout(DEADLINE):
        results = await asyncio.to_thread(asyncio.run, perform_from_here())
    assert {type(result) for result in results} == {BackendUnavailableError}
    assert len(watch.of("open")) == 1
    watch.holds_open = False


async def test_one_open_that_fails_is_the_answer_to_all_who_wait_for_it(watched):
    worker, watch = watched()
    worker.register("job", nothing)
    watch.gates["open"] = asyncio.Event()
    watch.errors["open"] = [away() for _ in range(100)]
    calls = [asyncio.create_task(worker.perform(Job("job"))) for _ in range(20)]
    calls += [asyncio.create_task(worker.counts()) for _ in range(5)]
    calls.append(asyncio.create_task(worker.start()))
    await watch.until(lambda: watch.under_way["open"])
    for _ in range(5):
        await asyncio.sleep(0)  # all of them wait by now
    watch.gates["open"].set()
    async with asyncio.timeout(DEADLINE):
        results = await asyncio.gather(*calls, return_exceptions=True)
    assert {(type(result), str(result)) for result in results} == {
        (BackendUnavailableError, "away")
    }
    assert len(watch.of("open")) == 1
    watch.errors.clear()
    await worker.start()  # a later call tries again
    await worker.stop()
