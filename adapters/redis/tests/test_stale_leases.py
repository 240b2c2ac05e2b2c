"""DUR: what stood still for longer than its lease doesn't run what others run."""

from __future__ import annotations

import asyncio
import signal
import time

import pytest
from lost_loops import check_that_a_closed_loop_holds_no_job, each_end_of_a_loop
from support import DEADLINE

from offload import Entry, Job, QueueCounts, Settlement, Verdict
from offload_redis import scripts
from offload_redis.scripts import Call


def entries(count):
    return [Entry(f"job-{n}", "default", b"x") for n in range(count)]


def ids(fetched):
    return [delivery.id for delivery in fetched.deliveries]


def keys_of(subscription):
    return subscription._sessions[0].keys


async def run_out(driver, *subscriptions):
    """Let their leases have run out, with nobody having seen it."""
    for subscription in subscriptions:
        session = subscription._sessions[0]
        await driver._link.execute([("ZADD", session.keys.leases, 1, session.name)])


async def lease_left(driver, subscription):
    """The ms until its lease runs out."""
    session = subscription._sessions[0]
    until, (seconds, _) = await driver._link.execute(
        [("ZSCORE", session.keys.leases, session.name), ("TIME",)]
    )
    return float(until) - int(seconds) * 1000


async def sweep(subscription):
    subscription._sweeper._next = subscription._sweeper._not_before = 0.0
    await subscription._sweeper.sweep()


# -- fetching --------------------------------------------------------------------


async def test_a_fetch_under_a_lease_that_has_run_out_extends_it(driver, subscribe):
    await driver.enqueue(entries(4))
    stale, other = await subscribe(driver), await subscribe(driver)
    await other.fetch(1)
    held = await stale.fetch(1)
    await run_out(driver, stale)
    taken = await stale.fetch(1)
    assert await lease_left(driver, stale) > 10_000
    await sweep(other)
    assert (await driver.counts())["default"] == QueueCounts(waiting=1, running=3)
    both = [*held.deliveries, *taken.deliveries]
    assert not await stale.settle([Settlement(each, Verdict.ACKNOWLEDGE) for each in both])
    assert (await driver.counts())["default"] == QueueCounts(waiting=1, running=1)


async def test_a_fetch_under_a_good_lease_leaves_it_alone(driver, subscribe):
    """Most fetches have nothing to extend, and write nothing for it."""
    subscription = await subscribe(driver)
    await subscription.fetch(1)
    session = subscription._sessions[0]
    before = await driver._link.ask("ZSCORE", session.keys.leases, session.name)
    await driver.enqueue(entries(1))
    await subscription.fetch(1)
    assert before == await driver._link.ask("ZSCORE", session.keys.leases, session.name)


async def test_a_fetch_of_a_session_that_was_ended_takes_nothing(driver, subscribe):
    await driver.enqueue(entries(4))
    stale, other = await subscribe(driver), await subscribe(driver)
    await stale.fetch(1)
    await run_out(driver, stale)
    await sweep(other)
    assert ids(await stale.fetch(1)) == []
    assert ids(await stale.fetch(1)) == ["job-0"]  # under another name


async def test_a_first_fetch_that_comes_again_when_it_was_ended_loses_nothing(driver, subscribe):
    """Its answer was lost, its session was ended, and what it took isn't back in the queue yet."""
    await driver.enqueue(entries(4))
    stale, other = await subscribe(driver), await subscribe(driver)
    call = stale._sessions[0].fetch(2)
    await driver._link.run([call])
    await run_out(driver, stale)
    keys = keys_of(stale)
    where = (keys.running, keys.leases, keys.numbers)
    await driver._link.run([Call(scripts.LAPSE, where, ("nobody", 1000))])
    assert (await driver._link.run([call]))[0][0] == 0, "it must not begin a second time"
    await sweep(other)
    found = ids(await other.fetch(4)) + ids(await stale.fetch(4)) + ids(await stale.fetch(4))
    assert sorted(found) == ["job-0", "job-1", "job-2", "job-3"]


# -- sweeping --------------------------------------------------------------------


async def test_a_sweep_never_ends_its_own_session(driver, subscribe):
    await driver.enqueue(entries(2))
    subscription = await subscribe(driver)
    await subscription.fetch(1)
    await run_out(driver, subscription)
    await sweep(subscription)
    assert await lease_left(driver, subscription) > 10_000
    assert (await driver.counts())["default"] == QueueCounts(waiting=1, running=1)


@pytest.mark.parametrize("learns", ["in a sweep", "in a fetch", "as it extends"])
async def test_who_stood_still_gives_the_others_time_to_say_that_they_live(
    driver, subscribe, learns
):
    await driver.enqueue(entries(2))
    first, second = await subscribe(driver), await subscribe(driver)
    held = await second.fetch(2)
    await first.fetch(1)
    await run_out(driver, first, second)
    if learns == "in a sweep":
        await first._sweeper.sweep()
    elif learns == "in a fetch":
        await first.fetch(1)
    else:
        await asyncio.to_thread(first.extend, ())
    assert first._sweeper._not_before > time.monotonic() + 5.0
    await first.fetch(1)  # sees a lease that has run out, and waits all the same
    assert not first._sweeper.is_due
    assert not await asyncio.to_thread(second.extend, held.deliveries)
    await sweep(first)
    assert (await driver.counts())["default"] == QueueCounts(running=2)


async def test_who_does_not_say_so_in_time_is_dead(driver, subscribe):
    await driver.enqueue(entries(2))
    first, second = await subscribe(driver), await subscribe(driver)
    await second.fetch(2)
    await first.fetch(1)
    await run_out(driver, first, second)
    await sweep(first)
    assert (await driver.counts())["default"] == QueueCounts(running=2)
    await sweep(first)
    assert ids(await first.fetch(2)) == ["job-0", "job-1"]


async def test_what_is_reclaimed_is_not_of_a_session_that_has_extended(driver, subscribe):
    """Between the two steps of a sweep."""
    await driver.enqueue(entries(1))
    holder = await subscribe(driver)
    held = await holder.fetch(1)
    keys, session = keys_of(holder), holder._sessions[0]
    await asyncio.to_thread(holder.extend, held.deliveries)
    where = (keys.running, keys.leases, keys.ready, keys.wake)
    await driver._link.run([Call(scripts.RECLAIM, where, (f"{session.name}.1",))])
    assert (await driver.counts())["default"] == QueueCounts(running=1)


# -- extending -------------------------------------------------------------------


async def test_a_session_that_begins_while_another_is_extended_is_not_taken_for_lost(
    driver, subscribe, monkeypatch
):
    """The thread that extends sees the old one; the loop's begins the new one meanwhile."""
    await driver.enqueue(entries(3))
    stale, other = await subscribe(driver), await subscribe(driver)
    old = (await stale.fetch(1)).deliveries
    await run_out(driver, stale)
    await sweep(other)
    run, new = stale._keeper.run, []
    loop = asyncio.get_running_loop()

    async def fetch_anew():
        while not new:
            new.extend((await stale.fetch(1)).deliveries)

    def begin_meanwhile(calls):
        answers = run(calls)
        asyncio.run_coroutine_threadsafe(fetch_anew(), loop).result()
        return answers

    monkeypatch.setattr(stale._keeper, "run", begin_meanwhile)
    held = [*old, *(await other.fetch(0)).deliveries]

    def extend():
        lost = stale.extend(held)
        return lost, stale.extend([*held, *new])

    lost, lost_later = await asyncio.to_thread(extend)
    assert list(lost) == list(old)
    assert list(lost_later) == list(old)


# -- all of it -------------------------------------------------------------------


@pytest.mark.parametrize("slots", [1, 2], ids=["busy", "idle"])
async def test_dur_7_a_server_that_stands_still_for_longer_than_the_leases(
    make, idle, start_server, recorder, slots
):
    """Every worker lives, so nothing runs twice, whichever of them comes first."""
    server = await start_server()
    workers = [
        make(server.url, lease="2s", timeout="500ms", concurrency=slots, grace="0s")
        for _ in range(4)
    ]
    for worker in workers:
        worker.register("hold", recorder.hold)
        await worker.start()
        await worker.perform(Job("hold"))
        await recorder.until_started(workers.index(worker) + 1)
    server._process.send_signal(signal.SIGSTOP)
    await asyncio.sleep(3.0)  # the fault itself
    server._process.send_signal(signal.SIGCONT)
    began = time.monotonic()
    while time.monotonic() - began < 3.0:  # longer than any sweep that could take them
        assert len(recorder.started) == 4
        await asyncio.sleep(0.05)
    recorder.gate.set()
    async with asyncio.timeout(DEADLINE):
        await idle(workers[0])
    assert [job.attempt for job in recorder.started] == [1] * 4


@each_end_of_a_loop
def test_a_loop_that_is_closed_without_a_stop_holds_no_job(server, space, is_wound_up):
    check_that_a_closed_loop_holds_no_job(
        f"{server.url}?namespace={space}&lease=10m", is_wound_up=is_wound_up
    )
