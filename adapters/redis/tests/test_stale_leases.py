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
from offload_redis.keys import QueueKeys
from offload_redis.scripts import Call

LEASE = 15.0
"""The seconds of the lease, unless a test asks for another."""


def entries(count):
    return [Entry(f"job-{n}", "default", b"x") for n in range(count)]


def ids(fetched):
    return [delivery.id for delivery in fetched.deliveries]


def keys_of(subscription):
    return subscription._sessions[0].keys


async def stand_still(driver, seconds):
    """Let the server's clock have gone on by so much, while nothing reached it."""
    keys = QueueKeys(driver._namespace, "default", "nobody")
    scores = await driver._link.ask("ZRANGE", keys.leases, 0, -1, "WITHSCORES")
    for session, score in zip(scores[::2], scores[1::2], strict=True):
        passed = seconds * 1000 * (-1 if float(score) >= 0 else 1)
        await driver._link.ask("ZINCRBY", keys.leases, passed, session)


async def die(driver, subscription):
    """Let its worker have been silent for longer than its lease, and the server have seen it."""
    session = subscription._sessions[0]
    await driver._link.ask("ZADD", session.keys.leases, -1, session.name)


async def until_suspect(driver, subscription):
    """The seconds until its worker is a suspect."""
    session = subscription._sessions[0]
    score, (now, _) = await driver._link.execute(
        [("ZSCORE", session.keys.leases, session.name), ("TIME",)]
    )
    return float(score) / 1000 - int(now)


async def sweep(subscription):
    subscription._sweeper._next = 0.0
    await subscription._sweeper.sweep()


async def running(driver):
    return (await driver.counts())["default"].running


# -- fetching --------------------------------------------------------------------


async def test_a_fetch_under_a_lease_that_has_run_out_extends_it(driver, subscribe):
    await driver.enqueue(entries(4))
    stale, other = await subscribe(driver), await subscribe(driver)
    await other.fetch(1)
    held = await stale.fetch(1)
    await die(driver, stale)
    taken = await stale.fetch(1)
    assert await until_suspect(driver, stale) > LEASE / 2 - 5
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
    await die(driver, stale)
    await sweep(other)
    assert ids(await stale.fetch(1)) == []
    assert ids(await stale.fetch(1)) == ["job-0"]  # under another name


async def test_a_first_fetch_that_comes_again_when_it_was_ended_loses_nothing(driver, subscribe):
    """Its answer was lost, its session was ended, and what it took isn't back in the queue yet."""
    await driver.enqueue(entries(4))
    stale, other = await subscribe(driver), await subscribe(driver)
    call = stale._sessions[0].fetch(2)
    await driver._link.run([call])
    await die(driver, stale)
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
    await die(driver, subscription)
    await sweep(subscription)
    assert (await driver.counts())["default"] == QueueCounts(waiting=1, running=1)
    assert len((await subscription.fetch(1)).deliveries) == 1
    assert await until_suspect(driver, subscription) > LEASE / 2 - 5


UNHEARD = {
    "sweep": lambda subscription: subscription._sessions[0].lapse(),
    "fetch": lambda subscription: subscription._sessions[0].fetch(0),
    "extension": lambda subscription: subscription._sessions[0].extend(),
}


@pytest.mark.parametrize("unheard", UNHEARD)
async def test_dur_7_what_nobody_hears_after_a_standstill_harms_nobody(driver, subscribe, unheard):
    """What was sent before it is carried out at its end, though its sender has given up."""
    await driver.enqueue(entries(2))
    first, second = await subscribe(driver), await subscribe(driver)
    held = await second.fetch(1)
    await first.fetch(1)
    await stand_still(driver, LEASE + 1)
    await driver._link.run([UNHEARD[unheard](first)])
    await sweep(first)
    await first.fetch(1)
    assert not await asyncio.to_thread(second.extend, held.deliveries)
    await sweep(first)
    assert await running(driver) == 2


async def test_dur_7_who_extended_last_before_a_standstill_takes_nothing_from_the_others(
    driver, subscribe
):
    """Its own lease is good all the time."""
    await driver.enqueue(entries(2))
    first, second = await subscribe(driver), await subscribe(driver)
    await first.fetch(1)
    held = await second.fetch(1)
    await stand_still(driver, LEASE * 0.3)
    await asyncio.to_thread(first.extend, ())
    await stand_still(driver, LEASE * 0.8)
    await sweep(first)
    await first.fetch(1)
    await sweep(first)
    assert not await asyncio.to_thread(second.extend, held.deliveries)
    assert await running(driver) == 2


async def test_dur_7_who_starts_after_a_standstill_takes_nothing_from_the_others(driver, subscribe):
    await driver.enqueue(entries(2))
    first, second = await subscribe(driver), await subscribe(driver)
    held = {each: (await each.fetch(1)).deliveries for each in (first, second)}
    await stand_still(driver, LEASE * 100)
    late = await subscribe(driver)
    assert not (await late.fetch(2)).deliveries
    await sweep(late)
    for each, deliveries in held.items():
        assert not await asyncio.to_thread(each.extend, deliveries)
    assert await running(driver) == 2


async def test_who_is_silent_for_half_a_lease_more_is_dead(driver, subscribe):
    await driver.enqueue(entries(2))
    first, second = await subscribe(driver), await subscribe(driver)
    await second.fetch(2)
    await stand_still(driver, LEASE + 1)
    await sweep(first)
    await first.fetch(1)
    await stand_still(driver, LEASE / 2 - 1)
    await sweep(first)
    assert await running(driver) == 2
    await stand_still(driver, 2)
    await sweep(first)
    assert ids(await first.fetch(2)) == ["job-0", "job-1"]


async def test_dur_2_who_dies_is_swept_a_lease_after_it_was_last_heard_of(driver, subscribe):
    """Not half a lease later, though it is a suspect first."""
    await driver.enqueue(entries(1))
    first, second = await subscribe(driver), await subscribe(driver)
    await second.fetch(1)
    await sweep(first)
    await stand_still(driver, LEASE / 2 + 1)
    await first.fetch(1)
    assert LEASE / 2 - 5 < first._sweeper.seconds_left <= LEASE / 2
    await stand_still(driver, LEASE / 2)
    assert not (await first.fetch(1)).deliveries
    assert first._sweeper.is_due
    assert len((await first.fetch(1)).deliveries) == 1


async def test_dur_2_idle_workers_sweep_when_the_time_of_a_suspect_is_up(
    drive, subscribe, monkeypatch
):
    """Long before they would look again by themselves."""
    monkeypatch.setattr("offload_redis.subscription.LOOK_SECONDS", 60.0)
    driver = await drive(lease="1s")
    await driver.enqueue(entries(1))
    idle, dead = await subscribe(driver), await subscribe(driver)
    await dead.fetch(1)
    await sweep(idle)
    await idle.wait(60)  # takes the marker that the job has left
    await stand_still(driver, 0.9)
    await idle.fetch(1)
    async with asyncio.timeout(DEADLINE):
        while not idle._sweeper.is_due:  # a wait on uvloop may end up to a millisecond early
            await idle.wait(60)
    assert len((await idle.fetch(1)).deliveries) == 1


async def test_a_suspect_is_seen_while_all_are_busy(driver, subscribe):
    """Busy workers fetch nothing for long. They extend their leases."""
    await driver.enqueue(entries(2))
    busy, dead = await subscribe(driver), await subscribe(driver)
    await busy.fetch(1)
    await dead.fetch(1)
    await sweep(busy)
    for _ in range(3):
        await stand_still(driver, LEASE / 2 + 1)
        await asyncio.to_thread(busy.extend, ())
    await busy.fetch(1)
    assert len((await busy.fetch(1)).deliveries) == 1


async def test_each_is_given_the_time_of_its_own_lease(drive, subscribe):
    """Workers of one queue may have other leases: it is their own that says how often they come."""
    hasty, patient = await drive(lease="2s"), await drive(lease="60s")
    await hasty.enqueue(entries(2))
    short, long = await subscribe(hasty), await subscribe(patient)
    held = await long.fetch(1)
    await short.fetch(1)
    await stand_still(hasty, 61)
    await short.fetch(1)
    await stand_still(hasty, 25)
    await sweep(short)
    assert not await asyncio.to_thread(long.extend, held.deliveries)
    await short.fetch(1)
    await stand_still(hasty, 1.1)
    await long.fetch(1)
    await stand_still(hasty, 1.1)
    await sweep(long)
    assert await running(hasty) == 1


@pytest.mark.parametrize("score", [0, 1, -1, "inf", "-inf", 9e15, -9e15, 1e300, -1e-300])
async def test_dur_2_a_session_with_an_odd_score_ends_all_the_same(driver, subscribe, score):
    await driver.enqueue(entries(1))
    first, odd = await subscribe(driver), await subscribe(driver)
    await odd.fetch(1)
    session = odd._sessions[0]
    await driver._link.ask("ZADD", session.keys.leases, score, session.name)
    await sweep(first)
    found = ids(await first.fetch(1))
    await stand_still(driver, LEASE / 2 + 1)
    await sweep(first)
    assert found + ids(await first.fetch(1)) == ["job-0"]


@pytest.mark.parametrize("name", ["stranger", "a-", "a-x", "a-99999999999999", "-", "a.b-1"])
async def test_dur_2_a_session_with_a_name_of_its_own_ends_like_ours(driver, subscribe, name):
    await driver.enqueue(entries(1))
    subscription = await subscribe(driver)
    keys = keys_of(subscription)
    entry = await driver._link.ask("LPOP", keys.ready)
    await driver._link.ask("HSET", keys.running, f"{name}.1", entry)
    await driver._link.ask("ZADD", keys.leases, 1, name)
    await subscription.fetch(1)
    await stand_still(driver, LEASE / 2 + 1)
    await sweep(subscription)
    assert len((await subscription.fetch(1)).deliveries) == 1


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
    await die(driver, stale)
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
