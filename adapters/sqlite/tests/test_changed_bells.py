"""Another program changes how a live worker is woken: it is put right, or told of once."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3

import pytest
from support import DEADLINE

from offload import Job

CHANGES = [
    "bell = ''",
    "bell = x'ff00'",
    "bell = CAST(x'ff' AS TEXT)",
    "bell = 7",
    "bell = 'jobs.db-worker-0123456789abcdef'",
    "queues = ''",
    "queues = 'other'",
    "queues = CAST(x'ff' AS TEXT)",
]


def execute(path, statement: str) -> list[tuple[object, ...]]:
    with contextlib.closing(sqlite3.connect(path, timeout=20)) as connection, connection:
        return connection.execute(statement).fetchall()


@pytest.mark.parametrize("change", CHANGES)
async def test_a_changed_row_of_a_live_worker_is_written_again(
    change, tmp_path, sqlite_url, connect, recorder, caplog
):
    worker, performer = connect(sqlite_url), connect(sqlite_url)
    worker.register("note", recorder.note)
    await worker.start()
    path = tmp_path / "jobs.db"
    look = "SELECT hex(queues), hex(bell), typeof(bell) FROM offload_worker"
    (before,) = execute(path, look)
    execute(path, f"UPDATE offload_worker SET {change}")
    async with asyncio.timeout(DEADLINE):
        while execute(path, look) != [before]:
            await asyncio.sleep(0.01)
    await performer.perform(Job("note"))
    await recorder.until_started(1)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 1 and "written again" in lines[0], lines


@pytest.mark.parametrize("action", ["ABORT, 'no'", "FAIL, 'no'", "ROLLBACK, 'no'", "IGNORE"])
async def test_a_changed_row_that_can_not_be_written_is_told_of_once(
    action, tmp_path, sqlite_url, connect, recorder, caplog
):
    worker = connect(sqlite_url, lease="60s")
    worker.register("note", recorder.note)
    await worker.start()
    path = tmp_path / "jobs.db"
    execute(path, "UPDATE offload_worker SET bell = ''")
    execute(
        path,
        "CREATE TRIGGER no BEFORE UPDATE OF bell ON offload_worker "
        f"BEGIN SELECT RAISE({action}); END",
    )
    async with asyncio.timeout(DEADLINE):
        for number in range(4):  # each comes with a look of its own, since no bell rings
            await worker.perform(Job("note"))
            await recorder.until_started(number + 1)
    lines = [record.getMessage() for record in caplog.records]
    assert len([line for line in lines if "is woken" in line]) == 1, lines
