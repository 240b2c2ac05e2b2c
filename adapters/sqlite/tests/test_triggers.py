"""Triggers of another program forbid some rows to be touched: all other jobs run, once each."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from datetime import timedelta

import pytest
from support import DEADLINE

from offload import Job, Reject, Retry
from offload_sqlite.database import Database
from offload_sqlite.file import DatabaseFile

ACTIONS = ["ABORT, 'no'", "FAIL, 'no'", "ROLLBACK, 'no'", "IGNORE"]
EVENTS = [
    "UPDATE ON offload_job",
    "DELETE ON offload_job",
    "DELETE ON offload_scheduled",
    "INSERT ON offload_job",
    "INSERT ON offload_scheduled",
    "INSERT ON offload_dead",
]


def forbid(path, event: str, action: str, ids: list[str]) -> None:
    side = "NEW" if event.startswith("INSERT") else "OLD"
    named = ", ".join(f"'{job_id}'" for job_id in ids)
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            f"CREATE TRIGGER no BEFORE {event} WHEN {side}.id IN ({named}) "
            f"BEGIN SELECT RAISE({action}); END"
        )


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.split(",")[0])
@pytest.mark.parametrize("event", EVENTS)
async def test_what_a_trigger_forbids_concerns_its_rows_alone(
    event, action, tmp_path, sqlite_url, connect, caplog
):
    worker = connect(sqlite_url, concurrency=4, max_attempts=2)
    begun: list[int] = []
    all_begun = asyncio.Event()
    end = {"offload_scheduled": Retry(after=3600), "offload_dead": Reject("no")}.get(
        event.rpartition(" ")[2]
    )

    async def note(args):
        begun.append(args["n"])
        if args["n"] >= 0 and len([n for n in begun if n >= 0]) == 30:
            all_begun.set()
        if args["n"] < 0 and end is not None:
            raise end

    worker.register("note", note)
    bad = [Job("note", {"n": -1 - n}) for n in range(8)]
    good = [Job("note", {"n": n}) for n in range(30)]
    # Four at the head, as many as there are slots, and four amid the others.
    later = event in {"DELETE ON offload_scheduled", "INSERT ON offload_job"}
    stuck = [await worker.perform_in(job, 0.02) for job in bad] if later else []
    if not later:
        stuck += await worker.perform_many(bad[:4])
        await worker.perform_many(good[:15])
        stuck += await worker.perform_many(bad[4:])
    await worker.perform_many(good[:15] if later else [])
    await worker.perform_many(good[15:])
    forbid(tmp_path / "jobs.db", event, action, stuck)
    async with asyncio.timeout(DEADLINE):
        await worker.start()
        await all_begun.wait()
        await worker.perform(Job("note", {"n": 30}))
        while 30 not in begun or await unsettled(worker) > len(stuck) or not is_told(caplog, stuck):
            await asyncio.sleep(0.01)
    assert sorted(n for n in begun if n >= 0) == list(range(31))
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) <= 4 * len(stuck), "a bounded log"
    innocent = [m for m in messages if "too late" in m and not any(each in m for each in stuck)]
    assert innocent == []


def test_a_full_disk_is_not_taken_for_a_trigger(tmp_path):
    """SQLite rolls the transaction back by itself then, and no row is to blame."""
    file = DatabaseFile(tmp_path / "jobs.db", None)
    database = Database(file, "offload", "normal", timedelta(seconds=1))
    database.open()
    full = sqlite3.OperationalError("database or disk is full")
    full.sqlite_errorcode = sqlite3.SQLITE_FULL

    def fill_up() -> None:
        with database.transaction(), database.savepoint():
            database.connection.execute("ROLLBACK")
            raise full

    with pytest.raises(sqlite3.OperationalError) as raised:
        fill_up()
    assert raised.value is full
    database.close()


async def unsettled(worker) -> int:
    return sum(each.running + each.waiting for each in (await worker.counts()).values())


def is_told(caplog, stuck: list[str]) -> bool:
    messages = [record.getMessage() for record in caplog.records]
    return any("row " in m or any(each in m for each in stuck) for m in messages)
