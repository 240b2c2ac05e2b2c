"""What the engine promises a driver: docs/write-an-adapter.md says the same in words."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from dataclasses import replace

import pytest
from watched import DEADLINE, away, watched_worker

import offload
import offload_simple
from offload import BackendError, BackendUnavailableError, Job, State, Verdict, WorkerStoppedError

MIB = 1 << 20
MOST_JOBS = 1000
MOST_BYTES = 4 * MIB


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """What fails is tried again soon."""
    monkeypatch.setattr("offload.engine.pause._LENGTH", offload.constant(0.002))


@pytest.fixture
async def watched():
    """A worker and the watch on its driver, with the options given; it is stopped in the end."""
    made = []

    def make(*args, **kwargs):
        made.append(watched_worker(*args, **kwargs))
        return made[-1]

    yield make
    for worker, watch in made:
        for gate in watch.gates.values():
            gate.set()
        watch.errors.clear()
        await worker.stop()


def large(kib: int) -> Job:
    return Job("job", {"text": "x" * (kib << 10)})


async def nothing(args):
    pass


# -- who reconnects ----------------------------------------------------------------


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


async def test_a_start_that_can_not_subscribe_closes_beside_an_enqueue(watched):
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
    assert ("close", "enqueue") in watch.overlaps
    watch.gates["enqueue"].set()
    await performing


# -- what may overlap ----------------------------------------------------------------


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


# -- verdicts ----------------------------------------------------------------------


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


# -- batches -----------------------------------------------------------------------


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


# -- time --------------------------------------------------------------------------


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


async def test_a_stop_closes_beside_an_enqueue_that_hangs(watched):
    worker, watch = watched("grace=0s")
    worker.register("job", nothing)
    await worker.start()
    watch.gates["enqueue"] = asyncio.Event()
    perform = asyncio.create_task(worker.perform(Job("job")))
    await watch.until(lambda: watch.under_way["enqueue"])
    begun = asyncio.get_running_loop().time()
    await worker.stop()
    assert asyncio.get_running_loop().time() - begun < 1.0
    assert ("close", "enqueue") in watch.overlaps
    watch.gates["enqueue"].set()
    await perform


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
