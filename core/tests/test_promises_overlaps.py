"""Which calls of a driver may overlap, and from which loop or thread each comes.

In words: docs/write-an-adapter.md, what the engine promises a driver.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time

import pytest
from watched import DEADLINE, nothing

from offload import BackendError, Job, Verdict

pytestmark = pytest.mark.usefixtures("impatient")


async def busy(worker, watch) -> None:
    """Run jobs that come one by one, while there are others to settle and to fetch."""
    ended = 0
    all_ended = asyncio.Event()

    @worker.handler("job")
    async def job(args):
        nonlocal ended
        await asyncio.sleep(0)
        ended += 1
        if ended == 300:
            all_ended.set()

    async def perform():
        for _ in range(30):
            await worker.perform(Job("job"))

    async def look():
        for _ in range(30):
            await worker.counts()

    async with asyncio.timeout(DEADLINE):
        looks = (look() for _ in range(3))
        await asyncio.gather(worker.start(), *looks, *(perform() for _ in range(10)))
        await all_ended.wait()
        await worker.stop()


async def test_no_call_overlaps_another_of_its_kind(watched):
    worker, watch = watched("concurrency=10")
    await busy(worker, watch)
    assert len(watch.of("enqueue")) > 10
    assert len(watch.of("fetch")) > 10
    assert len(watch.of("settle")) > 10
    assert {pair for pair in watch.overlaps if pair[0] == pair[1]} == {("counts", "counts")}


async def test_a_fetch_and_a_wait_never_overlap_but_both_do_with_the_rest(watched):
    worker, watch = watched("concurrency=10")
    await busy(worker, watch)
    pairs = {frozenset(pair) for pair in watch.overlaps}
    assert frozenset(["fetch", "wait"]) not in pairs
    for pair in (
        *(["fetch", "enqueue"], ["fetch", "settle"], ["settle", "enqueue"]),
        *(["counts", name] for name in ("fetch", "settle", "enqueue", "counts")),
    ):
        assert frozenset(pair) in pairs  # so a driver must be ready for it


async def test_no_look_overlaps_what_opens_or_closes(watched):
    worker, watch = watched("grace=0s")
    for _ in range(5):
        looks = [worker.counts(), worker.dead_letters.list()]
        calls = [worker.start(), *looks, worker.stop(), worker.counts(), worker.stop()]
        await asyncio.gather(*calls, return_exceptions=True)
    await worker.stop()
    assert {"open", "close", "counts", "list_dead"} <= set(watch.ended)
    alone = {"open", "subscription.close", "close"}
    pairs = [pair for pair in watch.overlaps if alone & set(pair)]
    assert pairs == []


async def test_the_calls_that_close_come_when_no_other_is_under_way(watched):
    worker, watch = watched("concurrency=10")
    await busy(worker, watch)
    assert watch.ended[-2:] == ["subscription.close", "close"]
    closing = {"subscription.close", "close"}
    assert [pair for pair in watch.overlaps if closing & set(pair)] == []


async def test_open_subscribe_and_close_come_one_at_a_time(watched):
    worker, watch = watched("grace=0s")
    worker.register("job", nothing)
    for _ in range(5):
        calls = [worker.start(), worker.counts(), worker.stop(), worker.perform(Job("job"))]
        calls += [worker.start(), worker.stop(), worker.dead_letters.list(), worker.stop()]
        await asyncio.gather(*calls, return_exceptions=True)
        await worker.stop()
        await worker.start()
        await worker.stop()
    alone = {"open", "subscribe", "subscription.close", "close"}
    assert alone <= set(watch.ended)
    assert [pair for pair in watch.overlaps if set(pair) <= alone] == []


async def test_leases_are_extended_from_a_thread_while_a_handler_blocks_the_loop(watched):
    worker, watch = watched()
    extended: list[tuple[threading.Thread, int]] = []
    times: list[float] = []
    thrice = threading.Event()

    def extend(deliveries):
        times.append(time.monotonic())
        extended.append((threading.current_thread(), len(deliveries)))
        if [held for _, held in extended].count(1) == 3:
            thrice.set()
        return ()

    worker._driver.on_extend = extend

    @worker.handler("job")
    async def job(args):
        assert thrice.wait(DEADLINE)  # no loop runs meanwhile

    await worker.start()
    await worker.perform(Job("job"))
    await watch.until(lambda: len(watch.of("settle")) == 1)
    assert thrice.is_set()
    assert {thread for thread, _ in extended}.isdisjoint({threading.main_thread()})
    assert len({thread for thread, _ in extended}) == 1
    third = worker._dispatcher.subscription.lease.total_seconds() / 3
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert min(gaps) >= third
    assert min(gaps) < 2 * third  # none of them waits for less, and not all for more
    await worker.stop()


async def test_a_lease_that_is_lost_cancels_the_run_and_its_job_is_only_released(watched):
    worker, watch = watched()
    worker._driver.on_extend = lambda deliveries: list(deliveries)
    cancelled = asyncio.Event()

    @worker.handler("job")
    async def job(args):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    await worker.start()
    await worker.perform(Job("job"))
    async with asyncio.timeout(DEADLINE):
        await cancelled.wait()
        await worker.stop()
    assert {each.verdict for batch in watch.of("settle") for each in batch} == {Verdict.RELEASE}


async def test_another_loop_has_a_driver_of_its_own_if_the_adapter_is_distributed(watched):
    worker, watch = watched(distributed=True)
    await worker.start()
    await worker.perform(Job("job"))
    await asyncio.to_thread(asyncio.run, worker.perform(Job("job")))
    await asyncio.to_thread(asyncio.run, worker.perform(Job("job")))
    await worker.stop()
    used = [loops for loops in watch.loops if loops]
    assert [len(loops) for loops in used] == [1, 1]
    assert used[0] == {asyncio.get_running_loop()}
    assert used[0].isdisjoint(used[1])


async def test_after_an_extension_that_raises_the_next_comes_four_times_as_soon(watched):
    worker, _ = watched()
    times: list[float] = []
    enough = threading.Event()

    def extend(deliveries):
        times.append(time.monotonic())
        if len(times) == 5:
            enough.set()
        if len(times) < 4:
            raise BackendError("the lease was in good hands")
        return ()

    worker._driver.on_extend = extend
    await worker.start()
    await asyncio.to_thread(enough.wait, DEADLINE)
    third = worker._dispatcher.subscription.lease.total_seconds() / 3
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert min(gaps[:3]) >= third / 4
    assert min(gaps[:3]) < third  # they aren't all late
    assert gaps[3] >= third
    await worker.stop()
