"""A worker whose leases can't be held gives up its session: no job stays under it."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3

import pytest
from support import DEADLINE

import offload
from offload import Job
from offload.config import parse_address, read_config
from offload_sqlite.driver import SqliteDriver
from offload_sqlite.options import OPTIONS

LOSSES = {
    "ignored": "CREATE TRIGGER no BEFORE UPDATE ON offload_worker BEGIN SELECT RAISE(IGNORE); END",
    "deleted": "DELETE FROM offload_worker",
    "renumbered": "UPDATE offload_worker SET session = session / 2",
}


def execute(path, statement: str) -> list[tuple[object, ...]]:
    with contextlib.closing(sqlite3.connect(path, timeout=20)) as connection, connection:
        return connection.execute(statement).fetchall()


@pytest.mark.parametrize("loss", LOSSES)
async def test_jobs_come_back_at_once_when_their_leases_are_lost(
    loss, tmp_path, sqlite_url, connect, caplog
):
    worker = connect(sqlite_url, lease="3s", concurrency=4, max_attempts=9)
    path, second_runs, others = tmp_path / "jobs.db", set(), asyncio.Event()
    begun: set[int] = set()

    async def slow(args):
        assert offload.current_job().attempt == 1, "what the worker cuts short costs no attempt"
        if args["n"] not in begun:
            begun.add(args["n"])
            await asyncio.Event().wait()
        second_runs.add(args["n"])

    async def other(args):
        others.set()

    worker.register("slow", slow)
    worker.register("other", other)
    await worker.start()
    await worker.perform_many([Job("slow", {"n": n}) for n in range(4)])
    async with asyncio.timeout(DEADLINE):
        while len(begun) < 4:
            await asyncio.sleep(0.01)
        execute(path, LOSSES[loss])
        while len(second_runs) < 4:
            await asyncio.sleep(0.01)
        await worker.perform(Job("other"))
        await others.wait()
        while execute(path, "SELECT 1 FROM offload_job"):
            await asyncio.sleep(0.01)
    lines = [record.getMessage() for record in caplog.records]
    assert len([line for line in lines if "its lease was lost" in line]) == 4, lines


@pytest.fixture
async def driver(sqlite_url):
    """Without an engine, so that nobody extends a lease but the test."""
    driver = SqliteDriver(read_config(parse_address(f"{sqlite_url}?lease=30s"), OPTIONS))
    await driver.open()
    yield driver
    await driver.close()


async def test_no_lease_of_a_session_before_is_told_to_be_held(driver, tmp_path):
    subscription = await driver.subscribe(["default"])
    await driver.enqueue([offload.Entry(f"j{n}", "default", b"{}") for n in range(2)])
    (old,) = (await subscription.fetch(1)).deliveries
    execute(tmp_path / "jobs.db", "DELETE FROM offload_worker")
    (new,) = (await subscription.fetch(1)).deliveries
    assert list(subscription.extend([old, new])) == [old]
    await subscription.close()


async def test_a_lost_session_that_may_not_be_deleted_costs_no_other_job(driver, tmp_path, caplog):
    subscription = await driver.subscribe(["default"])
    await driver.enqueue([offload.Entry("a", "default", b"{}")])
    (old,) = (await subscription.fetch(1)).deliveries
    path = tmp_path / "jobs.db"
    execute(path, LOSSES["ignored"])
    execute(
        path,
        "CREATE TRIGGER stay BEFORE DELETE ON offload_worker BEGIN SELECT RAISE(ABORT, 'no'); END",
    )
    assert list(subscription.extend([old])) == [old]
    await driver.enqueue([offload.Entry("b", "default", b"{}")])
    (new,) = (await subscription.fetch(1)).deliveries
    assert new.id == "b"
    assert any("stay until its lease ends" in record.getMessage() for record in caplog.records)
    execute(path, "DROP TRIGGER stay")
    await subscription.close()
