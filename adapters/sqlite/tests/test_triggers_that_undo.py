"""Triggers of another program that undo what was done: nothing is lost, and no other job waits."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3

import pytest
import sqlite_poison as poison
from support import DEADLINE

from offload import BackendError, Job, Retry

ACTIONS = ["ABORT, 'no'", "FAIL, 'no'", "ROLLBACK, 'no'", "IGNORE"]


def execute(path, statement: str) -> list[tuple[object, ...]]:
    with contextlib.closing(sqlite3.connect(path, timeout=20)) as connection, connection:
        return connection.execute(statement).fetchall()


@pytest.mark.parametrize("concurrency", [1, 2, 4])
async def test_a_row_whose_lease_is_taken_back_at_once_holds_up_no_other(
    concurrency, tmp_path, sqlite_url, connect, recorder, caplog
):
    worker, path = connect(sqlite_url, concurrency=concurrency), tmp_path / "jobs.db"
    worker.register("note", recorder.note)
    await poison.make_tables(tmp_path / "jobs.db")
    poison.insert(path, [("job", {**poison.GOOD["job"], "id": "Q"})] * 4)
    execute(
        path,
        "CREATE TRIGGER no AFTER UPDATE ON offload_job WHEN NEW.session != 0 AND NEW.id = 'Q' "
        "BEGIN UPDATE offload_job SET session = 0 WHERE seq = NEW.seq; END",
    )
    await worker.perform_many([Job("note", {"n": n}) for n in range(30)])
    await worker.start()
    async with asyncio.timeout(DEADLINE):
        while sum(q.dead == 4 and not q.waiting for q in (await worker.counts()).values()) == 0:
            await asyncio.sleep(0.01)
    await recorder.until(lambda: len([args for args in recorder.args if "n" in args]) == 30)
    assert sorted(args["n"] for args in recorder.args if "n" in args) == list(range(30))
    assert len(caplog.records) < 30, "a bounded log"


@pytest.mark.parametrize("table", ["job", "scheduled"])
@pytest.mark.parametrize("action", ACTIONS)
async def test_a_perform_that_a_trigger_forbids_fails_and_stores_nothing(
    action, table, tmp_path, sqlite_url, connect
):
    worker, path = connect(sqlite_url), tmp_path / "jobs.db"
    await poison.make_tables(tmp_path / "jobs.db")
    execute(
        path,
        f"CREATE TRIGGER no BEFORE INSERT ON offload_{table} WHEN NEW.queue = 'no' "
        f"BEGIN SELECT RAISE({action}); END",
    )
    forbidden = Job("note", {}, "no")
    delay = 0 if table == "job" else 60
    with pytest.raises(BackendError):
        await worker.perform_in(forbidden, delay)
    if table == "job":
        with pytest.raises(BackendError):
            await worker.perform_many([Job("note"), forbidden, Job("note")])
    await worker.perform(Job("note", {}, "yes"))
    assert execute(path, f"SELECT count(*) FROM offload_{table} WHERE queue != 'yes'") == [(0,)]
    assert execute(path, "SELECT count(*) FROM offload_job WHERE queue = 'yes'") == [(1,)]


@pytest.mark.parametrize("event", ["INSERT ON offload_job", "DELETE ON offload_dead"])
@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("what", ["requeue", "discard"])
async def test_a_dead_letter_that_a_trigger_protects_stays_and_others_move(
    what, action, event, tmp_path, sqlite_url, connect, caplog
):
    worker, path = connect(sqlite_url), tmp_path / "jobs.db"
    await poison.make_tables(tmp_path / "jobs.db")
    poison.insert(path, [("dead", {**poison.GOOD["dead"], "id": f"d{n}"}) for n in range(5)])
    side = "NEW" if event.startswith("INSERT") else "OLD"
    execute(
        path,
        f"CREATE TRIGGER no BEFORE {event} WHEN {side}.id = 'd2' BEGIN SELECT RAISE({action}); END",
    )
    ids = [f"d{n}" for n in range(5)]
    free = what == "discard" and side == "NEW"
    moved = ids if free else ["d0", "d1", "d3", "d4"]
    assert await getattr(worker.dead_letters, what)(ids) == moved
    assert execute(path, "SELECT id FROM offload_dead") == ([] if free else [("d2",)])
    back = execute(path, "SELECT id FROM offload_job ORDER BY seq")
    assert back == ([(each,) for each in moved] if what == "requeue" else [])
    assert len(caplog.records) == (0 if free else 1)


@pytest.mark.parametrize("action", ACTIONS)
async def test_a_retry_of_a_row_that_may_not_be_deleted_is_not_there_twice(
    action, tmp_path, sqlite_url, connect, recorder, caplog
):
    worker, path = connect(sqlite_url, concurrency=1), tmp_path / "jobs.db"

    async def again(args):
        raise Retry(after=3600)

    worker.register("again", again)
    worker.register("note", recorder.note)
    kept = await worker.perform(Job("again"))
    execute(
        path,
        f"CREATE TRIGGER no BEFORE DELETE ON offload_job WHEN OLD.id = '{kept}' "
        f"BEGIN SELECT RAISE({action}); END",
    )
    await worker.perform(Job("note"))
    await worker.start()
    await recorder.until_started(1)
    async with asyncio.timeout(DEADLINE):
        while not any("refuses to retry" in r.getMessage() for r in caplog.records):
            await asyncio.sleep(0.01)
    assert execute(path, "SELECT count(*) FROM offload_scheduled") == [(0,)]
