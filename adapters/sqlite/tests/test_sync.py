"""`worker.sync` stores over a connection of the calling thread, as safely as by the loop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sqlite3
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
from forks import perform_amid_forks
from support import DEADLINE

import offload
from offload import BackendError, BackendUnavailableError, Job


@pytest.fixture
def worker(sqlite_url):
    worker = offload.connect(f"{sqlite_url}?busy_timeout=300ms&grace=0s")
    yield worker
    worker.sync.stop()


@pytest.fixture
def other(tmp_path):
    """Another program's connection."""
    with contextlib.closing(sqlite3.connect(tmp_path / "jobs.db", isolation_level=None)) as other:
        yield other


def ids(tmp_path) -> list[str]:
    with contextlib.closing(sqlite3.connect(tmp_path / "jobs.db")) as connection:
        return [
            job_id for (job_id,) in connection.execute("SELECT id FROM offload_job ORDER BY seq")
        ]


def test_jobs_are_stored_without_any_loop_or_thread(tmp_path, worker):
    before = set(threading.enumerate())
    performed = [worker.sync.perform(Job("note", {"n": 1}))]
    performed += worker.sync.perform_many([Job("note")] * 1200)
    assert set(threading.enumerate()) == before
    assert worker.loop is None
    assert ids(tmp_path) == performed


@pytest.mark.parametrize("synchronous", ["normal", "full"])
def test_it_is_as_durable_as_what_the_loop_stores(sqlite_url, synchronous):
    worker = offload.connect(f"{sqlite_url}?synchronous={synchronous}")
    worker.sync.perform(Job("note"))
    asyncio.run(worker.perform(Job("note")))
    store, by_loop = worker._driver._sync_store, worker._driver._store
    settings = []
    for database in (store._database, by_loop.database):
        (mode,) = database.connection.execute("PRAGMA journal_mode").fetchone()
        (flushes,) = database.connection.execute("PRAGMA synchronous").fetchone()
        settings.append((mode, flushes))
    assert settings == [("wal", {"normal": 1, "full": 2}[synchronous])] * 2
    worker.sync.stop()


async def test_it_wakes_an_idle_worker_at_once(sqlite_url, connect, recorder):
    worker = connect(sqlite_url)
    worker.register("note", recorder.note)
    await worker.start()
    performer = connect(sqlite_url)
    for number in range(1, 11):  # one that isn't rung for looks once a second
        began = time.monotonic()
        await asyncio.to_thread(performer.sync.perform, Job("note"))
        await recorder.until_started(number)
        if time.monotonic() - began < 0.5:
            return
    pytest.fail("it was never woken in time")


def test_many_threads_lose_and_double_nothing(tmp_path, worker):
    def perform(_):
        return [worker.sync.perform(Job("note")) for _ in range(50)]

    with ThreadPoolExecutor(8) as threads:
        performed = [job_id for part in threads.map(perform, range(8)) for job_id in part]
    assert sorted(ids(tmp_path)) == sorted(performed)


def test_a_locked_file_is_waited_for(tmp_path, sqlite_url, other):
    worker = offload.connect(f"{sqlite_url}?busy_timeout=20s")
    worker.sync.perform(Job("note"))
    other.execute("BEGIN IMMEDIATE")
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(worker.sync.perform, Job("note"))
        with pytest.raises(TimeoutError):
            call.result(0.2)  # longer than SQLite waits at a time
        other.execute("COMMIT")
        call.result(DEADLINE)
    assert len(ids(tmp_path)) == 2
    worker.sync.stop()


def test_a_file_that_stays_locked_ends_within_the_busy_timeout(tmp_path, worker, other):
    worker.sync.perform(Job("note"))
    other.execute("BEGIN IMMEDIATE")
    began = time.monotonic()
    with pytest.raises(BackendUnavailableError, match="is locked") as caught:
        worker.sync.perform(Job("note"))
    assert 0.3 <= time.monotonic() - began < 3
    assert not caught.value.maybe_stored
    other.execute("COMMIT")
    worker.sync.perform(Job("note"))
    assert len(ids(tmp_path)) == 2


def test_a_stop_ends_a_call_that_waits_for_a_lock(tmp_path, sqlite_url, other):
    worker = offload.connect(f"{sqlite_url}?busy_timeout=20s&grace=0s")
    worker.sync.perform(Job("note"))
    other.execute("BEGIN IMMEDIATE")
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(worker.sync.perform, Job("note"))
        deadline = time.monotonic() + DEADLINE
        while worker.sync_reach.outbox.is_idle:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        began = time.monotonic()
        worker.sync.stop()
        assert time.monotonic() - began < 2
        error = call.exception(DEADLINE)
    assert isinstance(error, BackendUnavailableError) and not error.maybe_stored
    other.execute("COMMIT")
    assert len(ids(tmp_path)) == 1


def test_what_can_not_be_stored_is_told(tmp_path, worker, other):
    worker.sync.perform(Job("note"))
    other.execute(
        "CREATE TRIGGER no BEFORE INSERT ON offload_job WHEN NEW.queue = 'no' "
        "BEGIN SELECT RAISE(IGNORE); END"
    )
    with pytest.raises(BackendError, match="a trigger"):
        worker.sync.perform_many([Job("note"), Job("note", queue="no")])
    other.execute("DROP TRIGGER no")
    worker.sync.perform(Job("note"))
    assert len(ids(tmp_path)) == 2


def test_a_file_that_is_no_database(tmp_path, worker):
    (tmp_path / "jobs.db").write_text("x" * 10_000)
    with pytest.raises(BackendError, match="not a SQLite database"):
        worker.sync.perform(Job("note"))
    (tmp_path / "jobs.db").unlink()
    worker.sync.perform(Job("note"))
    assert len(ids(tmp_path)) == 1


def test_a_file_that_was_replaced_is_followed(tmp_path, worker):
    worker.sync.perform(Job("note"))
    for path in tmp_path.iterdir():
        path.unlink()
    second = worker.sync.perform(Job("note"))
    assert ids(tmp_path) == [second]


def test_an_interruption_amid_a_transaction_leaves_the_file_usable(tmp_path, worker, monkeypatch):
    """Ctrl-C strikes anywhere in the main thread."""
    worker.sync.perform(Job("note"))
    store = worker._driver._sync_store._store

    def interrupted(*_):
        store.database.connection.execute("BEGIN IMMEDIATE")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store, "enqueue", interrupted)
        with pytest.raises(KeyboardInterrupt):
            worker.sync.perform(Job("note"))
    worker.sync.perform(Job("note"))
    asyncio.run(worker.perform(Job("note")))
    assert len(ids(tmp_path)) == 3


def test_a_worker_that_is_forgotten_leaves_nothing_open(sqlite_url):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            offload.connect(sqlite_url).sync.perform(Job("note"))
        gc.collect()


@pytest.mark.skipif(sys.platform == "win32", reason="this system has no fork")
def test_forks_amid_performs_share_nothing(tmp_path, sqlite_url):
    performed = perform_amid_forks(f"{sqlite_url}?busy_timeout=60s")
    assert len(ids(tmp_path)) == performed
