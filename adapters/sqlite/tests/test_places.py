"""Rows of another program at the end of all numbers: jobs still run in their order."""

from __future__ import annotations

import contextlib
import sqlite3
from datetime import UTC, datetime, timedelta

import pytest
import sqlite_poison as poison

from offload import Job

END = (1 << 63) - 1
PLACES = [END, END - 1, 1 << 62, 1 << 53, (1 << 48) + 1]


def rows(path, table: str, places: list[int]) -> None:
    values = {**poison.GOOD[table], "due_ms": 1}
    poison.insert(path, [(table, {**values, "id": f"far-{n}", "seq": n}) for n in places])


@pytest.fixture
def one(sqlite_url, connect):
    """A worker that runs one job at a time."""
    return connect(sqlite_url, concurrency=1)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("many", [True, False])
async def test_fifo_1_jobs_that_are_performed_behind_a_far_row(
    place, many, tmp_path, one, recorder
):
    one.register("note", recorder.note)
    jobs = [Job("note", {"n": n}) for n in range(30)]
    await one.perform_many(jobs[:5])
    rows(tmp_path / "jobs.db", "job", [place])
    if many:
        await one.perform_many(jobs[5:])
    else:
        for job in jobs[5:]:
            await one.perform(job)
    await one.start()
    await recorder.until_started(31)
    assert [args["n"] for args in recorder.args if "n" in args] == list(range(30))


@pytest.mark.parametrize("place", PLACES)
async def test_fifo_1_jobs_that_are_performed_while_a_far_row_runs(place, tmp_path, one, recorder):
    one.register("note", recorder.note)
    far = [END] if place == END else [END, place]
    await one.perform(Job("note", {"n": 0}))
    rows(tmp_path / "jobs.db", "job", far)

    await one.start()
    await recorder.until_started(1 + len(far))
    await one.perform_many([Job("note", {"n": n}) for n in range(1, 30)])
    await recorder.until_started(30 + len(far))
    assert [args["n"] for args in recorder.args if "n" in args] == list(range(30))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("table", ["scheduled", "job"])
async def test_fifo_1_jobs_that_become_due_together(place, table, tmp_path, one, recorder):
    one.register("note", recorder.note)
    await poison.make_tables(tmp_path / "jobs.db")
    rows(tmp_path / "jobs.db", table, [place])
    when = datetime.now(UTC) + timedelta(seconds=0.3)
    for n in range(30):
        await one.perform_at(Job("note", {"n": n}), when)
    await one.start()
    await recorder.until_started(31)
    assert [args["n"] for args in recorder.args if "n" in args] == list(range(30))


async def test_fifo_1_dead_letters_that_are_requeued(tmp_path, sqlite_url, connect, recorder):
    one = connect(sqlite_url, concurrency=1, max_attempts=1)
    await poison.make_tables(tmp_path / "jobs.db")
    path = tmp_path / "jobs.db"
    poison.insert(path, [("dead", {**poison.GOOD["dead"], "id": f"d{n}"}) for n in range(30)])
    rows(path, "job", [END])
    ids = [letter.id for letter in await one.dead_letters.list()]
    assert await one.dead_letters.requeue(ids) == ids
    with contextlib.closing(sqlite3.connect(path)) as connection:
        found = connection.execute("SELECT id FROM offload_job WHERE id LIKE 'd%' ORDER BY seq")
        assert [job_id for (job_id,) in found] == ids


@pytest.mark.parametrize("action", ["ABORT, 'no'", "FAIL, 'no'", "ROLLBACK, 'no'", "IGNORE"])
async def test_a_far_row_that_can_not_be_moved_fails_no_perform(
    action, tmp_path, one, recorder, caplog
):
    one.register("note", recorder.note)
    await poison.make_tables(tmp_path / "jobs.db")
    path = tmp_path / "jobs.db"
    rows(path, "job", [END])
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            f"CREATE TRIGGER no BEFORE UPDATE ON offload_job WHEN OLD.seq = {END} "
            f"BEGIN SELECT RAISE({action}); END"
        )
    for n in range(10):
        await one.perform(Job("note", {"n": n}))
    await one.start()
    await recorder.until(lambda: {args.get("n") for args in recorder.args} >= set(range(10)))
    assert 1 <= len([r for r in caplog.records if "can't be moved" in r.getMessage()]) <= 2
