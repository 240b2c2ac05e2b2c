"""Leases after a stall: nobody works under one that has lapsed, nor takes one that lives."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import threading
import time

import pytest
from support import DEADLINE

import offload
from offload import BackendError, BackendUnavailableError, Entry, Job, Settlement, Verdict
from offload.config import parse_address, read_config
from offload_sqlite.driver import SqliteDriver
from offload_sqlite.options import OPTIONS


@pytest.fixture
async def make(sqlite_url):
    """A driver, as the engine has it, but with nobody that extends its leases."""
    drivers = []

    async def make(**options):
        query = "&".join(f"{name}={value}" for name, value in options.items())
        config = read_config(parse_address(f"{sqlite_url}?{query}"), OPTIONS)
        driver = SqliteDriver(config)
        await driver.open()
        drivers.append(driver)
        return driver

    yield make
    for driver in drivers:
        await driver.close()


def set_lease(tmp_path, milliseconds):
    """As if the leases of all workers ended so long from now."""
    with contextlib.closing(sqlite3.connect(tmp_path / "jobs.db", timeout=20)) as connection:
        end = time.time_ns() // 1_000_000 + milliseconds
        with connection:
            connection.execute("UPDATE offload_worker SET expires_ms = ?", (end,))


STAND_STILL = """
UPDATE offload_worker SET expires_ms = expires_ms - ? * iif(expires_ms < 0, -1, 1)
"""
"""Let the host's clock have gone on by so many ms, while nobody could do anything."""


def stand_still(tmp_path, seconds):
    connection = sqlite3.connect(tmp_path / "jobs.db", timeout=20)
    with contextlib.closing(connection), connection:
        connection.execute(STAND_STILL, (int(seconds * 1000),))


async def look(driver, subscription, limit=10):
    """Fetch, when it is time to look for the dead."""
    driver._store.sessions._next_reaping = 0.0
    return (await subscription.fetch(limit)).deliveries


def lease_left(tmp_path):
    with contextlib.closing(sqlite3.connect(tmp_path / "jobs.db", timeout=20)) as connection:
        ((end,),) = connection.execute("SELECT expires_ms FROM offload_worker").fetchall()
    return end - time.time_ns() // 1_000_000


def entries(count):
    return [Entry(f"j{n}", "default", b"{}") for n in range(count)]


@pytest.mark.parametrize("left", [-1000, 0, 100])
async def test_a_fetch_extends_a_lease_that_has_lapsed_or_soon_will(make, tmp_path, left):
    driver = await make(lease="30s")
    subscription = await driver.subscribe(["default"])
    await driver.enqueue(entries(2))
    assert len((await subscription.fetch(1)).deliveries) == 1
    set_lease(tmp_path, left)
    assert len((await subscription.fetch(1)).deliveries) == 1
    assert lease_left(tmp_path) > 20_000
    await subscription.close()


async def test_a_lease_that_lasts_costs_a_fetch_no_write(make, tmp_path):
    driver = await make(lease="30s")
    subscription = await driver.subscribe(["default"])
    set_lease(tmp_path, 15_000)
    await driver.enqueue(entries(1))
    assert (await subscription.fetch(1)).deliveries
    assert lease_left(tmp_path) <= 15_000
    await subscription.close()


async def test_workers_that_all_stalled_do_not_take_each_other_for_dead(make, tmp_path):
    one, two = await make(lease="30s"), await make(lease="30s")
    first, second = await one.subscribe(["default"]), await two.subscribe(["default"])
    await one.enqueue(entries(2))
    (a,) = (await first.fetch(1)).deliveries
    (b,) = (await second.fetch(1)).deliveries
    set_lease(tmp_path, -5_000)
    for driver, subscription in ((one, first), (two, second)):
        driver._store.sessions._next_reaping = 0  # it is time to look for the dead
        assert not (await subscription.fetch(10)).deliveries
    done = [Settlement(each, Verdict.ACKNOWLEDGE) for each in (a, b)]
    assert not await first.settle(done[:1])
    assert not await second.settle(done[1:])
    await first.close()
    await second.close()


async def test_one_that_has_stalled_for_longer_than_its_lease_is_taken_over(make, tmp_path):
    """As ever: only after a stall of its own a worker is patient."""
    one, two = await make(lease="30s"), await make(lease="30s")
    first = await one.subscribe(["default"])
    await one.enqueue(entries(2))
    (old,) = (await first.fetch(1)).deliveries
    set_lease(tmp_path, -5_000)
    second = await two.subscribe(["default"])
    assert len(await look(two, second, 0)) == 0
    stand_still(tmp_path, 16)
    (a, b) = await look(two, second)
    assert (a.id, a.attempt) == (old.id, 2)
    # Nothing of the old session is settled, nor leased under it.
    for verdict in Verdict:
        assert await first.settle([Settlement(old, verdict)]) == [old]
    assert not (await first.fetch(10)).deliveries
    assert await first.settle([Settlement(a, Verdict.ACKNOWLEDGE)]) in ([], [a])
    await one.enqueue(entries(1))
    (new,) = (await first.fetch(10)).deliveries
    assert new.receipt[1] != old.receipt[1]
    assert not await second.settle([Settlement(b, Verdict.ACKNOWLEDGE)])
    await first.close()
    await second.close()


async def test_dur_7_who_starts_after_a_standstill_takes_nothing_from_the_others(make, tmp_path):
    """A host that stood still, or stopped processes that go on at once."""
    one, two = await make(lease="30s"), await make(lease="30s")
    first, late = await one.subscribe(["default"]), await two.subscribe(["default"])
    await late.close()
    await one.enqueue(entries(1))
    held = (await first.fetch(1)).deliveries
    stand_still(tmp_path, 3000)
    late = await two.subscribe(["default"])
    for _ in range(2):
        assert not await look(two, late)
    assert not await asyncio.to_thread(first.extend, held)
    assert not await look(two, late)
    await first.close()
    await late.close()


async def test_dur_7_who_extended_last_before_a_standstill_takes_nothing_from_the_others(
    make, tmp_path
):
    """Its own lease is good all the time, and the other was a little late."""
    one, two = await make(lease="30s"), await make(lease="30s")
    first, second = await one.subscribe(["default"]), await two.subscribe(["default"])
    await one.enqueue(entries(1))
    held = (await second.fetch(1)).deliveries
    stand_still(tmp_path, 30 * 0.45)
    await asyncio.to_thread(first.extend, [])
    stand_still(tmp_path, 30 * 0.6)
    for _ in range(2):
        assert not await look(one, first)
    assert not await asyncio.to_thread(second.extend, held)
    assert not await look(one, first)
    await first.close()
    await second.close()


async def test_dur_7_who_waited_for_the_lock_to_take_from_the_dead_takes_it_from_them_only(
    make, tmp_path, monkeypatch
):
    """It has seen before that somebody is dead. Meanwhile all leases have run out."""
    one, two = await make(lease="30s"), await make(lease="30s")
    first, second = await one.subscribe(["default"]), await two.subscribe(["default"])
    await one.enqueue(entries(2))
    held = (await second.fetch(1)).deliveries
    sessions, has_seen = one._store.sessions, threading.Event()

    def see_an_orphan():
        has_seen.set()
        return True

    monkeypatch.setattr(sessions, "_has_orphans", see_an_orphan)
    with contextlib.closing(sqlite3.connect(tmp_path / "jobs.db", isolation_level=None)) as holder:
        holder.execute("UPDATE offload_job SET session = 99 WHERE id = 'j1'")
        holder.execute("BEGIN IMMEDIATE")
        holder.execute(STAND_STILL, (31_000,))
        looking = asyncio.create_task(look(one, first))
        assert await asyncio.to_thread(has_seen.wait, DEADLINE)
        holder.execute("COMMIT")
    assert [each.id for each in await looking] == ["j1"]
    assert not await asyncio.to_thread(second.extend, held)
    assert not await look(one, first)
    await first.close()
    await second.close()


async def test_dur_2_who_is_silent_for_a_lease_is_dead(make, tmp_path):
    """Not half a lease later, though it is a suspect first."""
    one, two = await make(lease="30s"), await make(lease="30s")
    first, second = await one.subscribe(["default"]), await two.subscribe(["default"])
    await one.enqueue(entries(1))
    assert (await second.fetch(1)).deliveries
    for seconds in (16, 13.9):
        stand_still(tmp_path, seconds)
        await asyncio.to_thread(first.extend, [])
        one._store.sessions._patient_until = 0.0
        assert not await look(one, first)
    assert one._store.sessions.seconds_to_reaping < 1
    stand_still(tmp_path, 1.2)
    await asyncio.to_thread(first.extend, [])
    assert len(await look(one, first)) == 1
    await first.close()
    await second.close()


@pytest.mark.parametrize(
    "end", [0, 1, -1, 2**63 - 1, -(2**63), 9e15, -9e15, "never", b"never", None]
)
async def test_dur_2_a_worker_with_an_odd_lease_dies_all_the_same(make, tmp_path, end):
    """It has no bell that tells."""
    driver = await make(lease="30s")
    await driver.enqueue(entries(1))
    with contextlib.closing(sqlite3.connect(tmp_path / "jobs.db")) as connection, connection:
        connection.execute("DROP TABLE offload_worker")
        connection.execute(
            "CREATE TABLE offload_worker (session INTEGER PRIMARY KEY, queues, bell, expires_ms)"
        )
        connection.execute("INSERT INTO offload_worker VALUES (99, 'default', '', ?)", (end,))
        connection.execute("UPDATE offload_job SET session = 99, attempt = 1")
    subscription = await driver.subscribe(["default"])
    found = [*await look(driver, subscription)]
    with contextlib.closing(sqlite3.connect(tmp_path / "jobs.db")) as connection, connection:
        connection.execute(
            "UPDATE offload_worker SET expires_ms = expires_ms + 16000 WHERE session = 99"
        )
    found += await look(driver, subscription)
    assert [each.id for each in found] == ["j0"]
    await subscription.close()


@pytest.mark.parametrize(
    "forbids", ["RAISE(ABORT, 'no')", "RAISE(IGNORE)", "RAISE(ROLLBACK, 'no')"]
)
async def test_dur_2_a_worker_whose_row_a_trigger_protects_dies_all_the_same(
    make, tmp_path, forbids
):
    """Its lease can't be extended either."""
    driver = await make(lease="30s")
    await driver.enqueue(entries(1))
    with contextlib.closing(sqlite3.connect(tmp_path / "jobs.db")) as connection, connection:
        connection.execute("INSERT INTO offload_worker VALUES (99, 'default', '', 1)")
        connection.execute("UPDATE offload_job SET session = 99, attempt = 1")
        connection.execute(
            "CREATE TRIGGER protect BEFORE UPDATE ON offload_worker WHEN old.session = 99 "
            f"BEGIN SELECT {forbids}; END"
        )
    subscription = await driver.subscribe(["default"])
    found = [*await look(driver, subscription), *await look(driver, subscription)]
    assert [each.id for each in found] == ["j0"]
    await subscription.close()


async def test_a_session_that_is_taken_between_look_and_lease_leases_nothing(make, tmp_path):
    """The look is in the transaction of the lease: the row is gone just before it."""
    driver = await make(lease="30s")
    subscription = await driver.subscribe(["default"])
    await driver.enqueue(entries(1))
    await subscription.fetch(0)
    with contextlib.closing(sqlite3.connect(tmp_path / "jobs.db")) as connection, connection:
        connection.execute("DELETE FROM offload_worker")
    (delivery,) = (await subscription.fetch(1)).deliveries
    with contextlib.closing(sqlite3.connect(tmp_path / "jobs.db")) as connection:
        assert connection.execute("SELECT session FROM offload_worker").fetchall() == [
            (delivery.receipt[1],)
        ]
    await subscription.close()


async def test_waiting_for_the_lock_takes_nothing_from_the_lease(make, tmp_path):
    driver = await make(lease="2s", busy_timeout="20s")
    subscription = await driver.subscribe(["default"])
    other = sqlite3.connect(tmp_path / "jobs.db", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    extending = threading.Thread(target=subscription.extend, args=([],))
    extending.start()
    release = threading.Timer(1.5, other.execute, ["COMMIT"])
    release.start()
    await asyncio.to_thread(extending.join)
    assert lease_left(tmp_path) > 1_200
    release.join()
    other.close()
    await subscription.close()


async def test_a_lock_longer_than_the_lease_runs_nothing_twice(tmp_path, sqlite_url, connect):
    runs: list[tuple[str, int]] = []
    gate = asyncio.Event()

    async def hold(args):
        runs.append((offload.current_job().id, offload.current_job().attempt))
        await gate.wait()

    workers = [connect(sqlite_url, lease="600ms", busy_timeout="100ms") for _ in range(3)]
    for worker in workers:
        worker.register("hold", hold)
        await worker.start()
    ids = await workers[0].perform_many([Job("hold")] * 60)
    async with asyncio.timeout(DEADLINE):
        while len(runs) < 60:
            await asyncio.sleep(0.01)
    other = sqlite3.connect(tmp_path / "jobs.db", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    locked = asyncio.Event()
    asyncio.get_running_loop().call_later(2.0, locked.set)
    await locked.wait()  # over three leases
    other.execute("ROLLBACK")
    other.close()
    # What comes later is behind every look for the dead of two seconds.
    ids += [await workers[0].perform_in(Job("hold"), 2.0)]
    async with asyncio.timeout(DEADLINE):
        while len(runs) < 61:
            await asyncio.sleep(0.01)
    gate.set()
    for worker in workers:
        await worker.stop()
    assert sorted(runs) == sorted((job_id, 1) for job_id in ids)
    assert await workers[0].counts() == {}


async def test_jobs_of_a_session_that_nobody_has_go_back(make, tmp_path):
    driver = await make()
    await driver.enqueue(entries(3))
    with contextlib.closing(sqlite3.connect(tmp_path / "jobs.db")) as connection, connection:
        connection.execute("UPDATE offload_job SET session = 99, attempt = 1 WHERE id = 'j1'")
    subscription = await driver.subscribe(["default"])
    found = (await subscription.fetch(10)).deliveries
    assert [(each.id, each.attempt) for each in found] == [("j0", 1), ("j1", 2), ("j2", 1)]
    await subscription.close()


class Surprise(Exception):
    pass


@pytest.mark.parametrize(
    "error",
    [
        OverflowError("int too large"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        ValueError("embedded null character"),
        MemoryError(),
        sqlite3.InterfaceError("bad parameter"),
        sqlite3.ProgrammingError("Cannot operate on a closed database."),
        sqlite3.Warning("one statement"),
        Surprise("who knows"),
        TypeError("no"),
        OSError(5, "Input/output error"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_nothing_native_leaves_the_driver(make, monkeypatch, error, caplog):
    driver = await make()
    subscription = await driver.subscribe(["default"])

    class Broken:
        in_transaction = False

        def execute(self, *_):
            raise error

        def close(self):
            raise error

    whole, driver._store.database._opened = driver._store.database._opened, Broken()
    monkeypatch.setattr(subscription._keeper, "_ensure_connection", Broken)
    with caplog.at_level(logging.ERROR):
        for call in (
            lambda: driver.enqueue(entries(1)),
            lambda: subscription.fetch(1),
            lambda: subscription.settle([]),
            driver.counts,
            lambda: driver.list_dead(1, None),
            lambda: driver.show_dead("x"),
            lambda: driver.requeue_dead(["x"]),
            lambda: driver.discard_dead(["x"]),
            lambda: asyncio.to_thread(subscription.extend, []),
        ):
            with pytest.raises(BackendError) as caught:
                await call()
            assert caught.value.__cause__ is error
    if isinstance(error, OSError):
        assert isinstance(caught.value, BackendUnavailableError)
    else:
        assert any(record.exc_info for record in caplog.records)
    driver._store.database._opened = whole
    monkeypatch.undo()
    await subscription.close()
