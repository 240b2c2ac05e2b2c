"""The tables are changed under a worker, and set right again: no job is buried or runs twice."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3

import pytest
from click.testing import CliRunner
from support import DEADLINE

import offload
from offload import Job
from offload.cli import main

HURDLES = {
    "a trigger before its table": (
        "CREATE TRIGGER audit AFTER UPDATE ON offload_job "
        "BEGIN INSERT INTO audit_log VALUES (NEW.id); END",
        "CREATE TABLE audit_log (id)",
    ),
    "a trigger with a function that is not there": (
        "CREATE TRIGGER audit BEFORE UPDATE ON offload_job WHEN my_function() BEGIN SELECT 1; END",
        "DROP TRIGGER audit",
    ),
    **{
        f"maintenance: {action}": (
            f"CREATE TRIGGER audit BEFORE UPDATE ON offload_job BEGIN SELECT RAISE({action}); END",
            "DROP TRIGGER audit",
        )
        for action in ("ABORT, 'later'", "FAIL, 'later'", "ROLLBACK, 'later'", "IGNORE")
    },
    "a table renamed": (
        "ALTER TABLE offload_job RENAME TO aside",
        "ALTER TABLE aside RENAME TO offload_job",
    ),
    "a view in its place": (
        "ALTER TABLE offload_job RENAME TO aside; CREATE VIEW offload_job AS SELECT * FROM aside",
        "DROP VIEW offload_job; ALTER TABLE aside RENAME TO offload_job",
    ),
    "scheduled jobs may not become ready": (
        "CREATE TRIGGER audit BEFORE DELETE ON offload_scheduled "
        "BEGIN SELECT RAISE(ABORT, 'later'); END",
        "DROP TRIGGER audit",
    ),
}


def change(path, statements: str) -> None:
    with contextlib.closing(sqlite3.connect(path, timeout=20)) as connection:
        connection.executescript(statements)


@pytest.mark.parametrize("hurdle", HURDLES)
async def test_what_stands_against_every_row_is_an_outage(
    hurdle, tmp_path, sqlite_url, connect, caplog
):
    worker = connect(sqlite_url, concurrency=4, max_attempts=2)
    ran: list[tuple[int, int]] = []

    async def note(args):
        ran.append((args["n"], offload.current_job().attempt))
        await asyncio.sleep(0.002)

    worker.register("note", note)
    await worker.start()
    await worker.perform_many([Job("note", {"n": n}) for n in range(200)])
    for n in range(200, 220):
        await worker.perform_in(Job("note", {"n": n}), 0.01 * (n - 200))
    up, down = HURDLES[hurdle]
    async with asyncio.timeout(DEADLINE):
        while len(ran) < 20:
            await asyncio.sleep(0.005)
        change(tmp_path / "jobs.db", up)
        while not any("no job" in text or "can't" in text for text in caplog.messages):
            await asyncio.sleep(0.01)
        change(tmp_path / "jobs.db", down)
        while await worker.counts():
            await asyncio.sleep(0.01)
    assert sorted(ran) == [(n, 1) for n in range(220)]
    assert not [r for r in caplog.records if "dead letter" in r.getMessage()]
    assert len([r for r in caplog.records if r.levelno >= logging.WARNING]) < 20


async def test_a_queue_that_nobody_may_touch_holds_up_no_other(tmp_path, sqlite_url, connect):
    worker = connect(sqlite_url, queues="default,locked", concurrency=2)
    ran: list[str] = []

    async def note(args):
        ran.append(offload.current_job().queue)

    worker.register("note", note)
    await worker.perform_many([Job("note", queue="locked")] * 5)
    await worker.perform_many([Job("note")] * 5)
    change(
        tmp_path / "jobs.db",
        "CREATE TRIGGER no BEFORE UPDATE ON offload_job WHEN OLD.queue = 'locked' "
        "BEGIN SELECT RAISE(ABORT, 'no'); END",
    )
    await worker.start()
    async with asyncio.timeout(DEADLINE):
        while len(ran) < 5:
            await asyncio.sleep(0.01)
        assert ran == ["default"] * 5
        change(tmp_path / "jobs.db", "DROP TRIGGER no")
        while len(ran) < 10:
            await asyncio.sleep(0.01)


async def test_an_index_that_is_not_of_its_table_holds_up_nobody(
    tmp_path, sqlite_url, connect, caplog
):
    """A file that was copied badly: rows that only the index has are no jobs."""
    worker, path = connect(sqlite_url), tmp_path / "jobs.db"
    ran: list[int] = []

    async def note(args):
        ran.append(args["n"])

    worker.register("note", note)
    await worker.perform_many([Job("note", {"n": n}) for n in range(20)])
    name = "offload_job_order"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        query = f"SELECT * FROM sqlite_schema WHERE name = '{name}'"
        (index,) = connection.execute(query).fetchall()
        connection.execute(f"DELETE FROM sqlite_schema WHERE name = '{name}'")
    change(path, "DELETE FROM offload_job WHERE seq < 6")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("INSERT INTO sqlite_schema VALUES (?, ?, ?, ?, ?)", index)
    await worker.start()
    async with asyncio.timeout(DEADLINE):
        while len(ran) < 15:
            await asyncio.sleep(0.01)
        await worker.perform(Job("note", {"n": 20}))
        while len(ran) < 16:
            await asyncio.sleep(0.01)
    assert sorted(ran) == list(range(5, 21))
    assert sum("in its index alone" in text for text in caplog.messages) == 1


async def test_a_verdict_that_is_rejected_is_stored_once_it_may_be(tmp_path, sqlite_url, connect):
    worker, path = connect(sqlite_url, max_attempts=1), tmp_path / "jobs.db"
    runs: list[int] = []

    async def fail(args):
        runs.append(offload.current_job().attempt)
        raise ValueError

    worker.register("fail", fail)
    await worker.start()
    change(
        path,
        "CREATE TRIGGER no BEFORE INSERT ON offload_dead BEGIN SELECT RAISE(ABORT, 'later'); END",
    )
    job_id = await worker.perform(Job("fail"))
    async with asyncio.timeout(DEADLINE):
        while not runs:
            await asyncio.sleep(0.01)
        await worker.stop()
        await worker.start()  # it comes back, and has used up its attempt
        change(path, "DROP TRIGGER no")
        while not (letters := await worker.dead_letters.list()):
            await asyncio.sleep(0.01)
    assert [letter.id for letter in letters] == [job_id]
    assert runs == [1]


LOOKS = [["queues"], ["dead", "list"], ["dead", "show", "x"], ["dead", "requeue", "x"]]


@pytest.mark.parametrize("look", LOOKS, ids=" ".join)
def test_who_only_looks_makes_nothing_in_the_database_of_another(tmp_path, look):
    path = tmp_path / "app.db"
    change(path, "CREATE TABLE users (name)")
    before = path.read_bytes()
    command, *arguments = look if look[0] == "dead" else [look[0]]
    words = [command, *arguments[:1], f"sqlite:///{path}", *arguments[1:]]
    CliRunner().invoke(main, words)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["app.db"]


def test_a_dead_letter_that_may_not_be_moved_is_told_from_one_that_is_not_there(tmp_path):
    url, path = f"sqlite:///{tmp_path}/jobs.db", tmp_path / "jobs.db"
    worker = offload.connect(url)
    worker.register("note", print)
    worker.sync.perform(Job("note"))
    worker.sync.stop()
    change(
        path,
        "INSERT INTO offload_dead VALUES (1, 'default', 'd1', 1, 1, 'e', '', x'7b7d');"
        "CREATE TRIGGER no BEFORE DELETE ON offload_dead BEGIN SELECT RAISE(ABORT, 'no'); END",
    )
    result = CliRunner().invoke(main, ["dead", "requeue", url, "d1", "d2"])
    assert result.exit_code == 1
    assert "does not let them be requeued: d1" in result.output
    assert "no dead letter has the id d2" in result.output
