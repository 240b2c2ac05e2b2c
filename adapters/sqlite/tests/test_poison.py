"""Rows from outside: every other job runs, every look works, and the poison is shown."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import sqlite_poison as poison
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sqlite_poison import BadText, Row, Zeros
from support import DEADLINE, Log, Recorder

import offload
from offload import Job


def good(table: str, **changed: object) -> Row:
    return table, {**poison.GOOD[table], **changed}


async def live_with(folder: Path, rows: list[Row], *, loosely: bool) -> None:
    """A worker runs its jobs before and after the poison; then an operator clears up."""
    path = folder / "jobs.db"
    canary = folder / poison.FOREIGN_BELL
    canary.write_bytes(b"precious")
    worker, recorder = offload.connect(f"sqlite:///{path}?max_attempts=1"), Recorder()
    worker.register("note", recorder.note)
    await poison.make_tables(path)
    if loosely:
        poison.loosen(path)
    poison.insert(path, rows[::2])
    ours = [await worker.perform(Job("note")) for _ in range(3)]
    await worker.start()
    poison.insert(path, rows[1::2])
    ours += await worker.perform_many([Job("note")] * 3)
    ours.append(await worker.perform_in(Job("note"), 0.01))
    await recorder.until(lambda: set(ours) <= set(recorder.ended))
    await look_and_clear_up(worker, path)
    await worker.stop()
    await worker.counts()
    await worker.stop()
    assert canary.read_bytes() == b"precious"
    assert {each.name for each in folder.iterdir()} == {"jobs.db", canary.name}


async def look_and_clear_up(worker: offload.Worker, path: Path) -> None:
    assert all(isinstance(queue, str) for queue in await worker.counts())
    letters, after = [], None
    while page := await worker.dead_letters.list(2, after):
        letters += page
        after = page[-1].cursor
    for letter in letters:
        assert letter.died_at.year < 10_000
        assert isinstance(letter.error, str) and isinstance(letter.queue, str)
        shown = await worker.dead_letters.show(letter.id)
        assert shown is None or shown.id == letter.id
    ids = [letter.id for letter in letters]
    back, gone = ids[::2], ids[1::2]
    requeued = await worker.dead_letters.requeue([*back, "\ud800", f"row-{1 << 64}"])
    assert set(requeued) <= set(back)
    await worker.dead_letters.discard([*gone, "row-x"])
    left = {letter.id for letter in await worker.dead_letters.list(10_000)}
    assert not left & set(gone) - set(back)  # what was put back may have died once more


@settings(max_examples=60)
@given(st.lists(poison.rows(), min_size=1, max_size=10), st.booleans())
@example([good("job", id="a"), good("job", id="a"), good("dead", id="a")], False)
@example([good("job", body=7), good("job", body=BadText(b"\xff")), good("job", body=None)], True)
@example([good("scheduled", due_ms="soon"), good("scheduled", due_ms=0.5)], False)
@example([good("job", attempt="x"), good("job", attempt=(1 << 63) - 1)], False)
@example([good("dead", seq=(1 << 63) - 1, id="y"), good("job", body=b"")], False)
@example([good("dead", died_ms=1 << 62), good("dead", id=b"\xff", error=b"\xff")], False)
@example([good("worker", bell="../../x"), good("worker", bell=poison.FOREIGN_BELL)], False)
@example([good("worker", expires_ms="never"), good("worker", queues=BadText(b"\xff"))], False)
@example([good("job", session=77), good("job", session=BadText(b"\xff"), id="z")], False)
def test_other_jobs_run_and_every_look_works(rows, loosely):
    logging.getLogger("offload").setLevel(logging.CRITICAL)
    try:
        with tempfile.TemporaryDirectory() as folder:
            asyncio.run(live_with(Path(folder), rows, loosely=loosely))
    finally:
        logging.getLogger("offload").setLevel(logging.NOTSET)


ONE_BY_ONE = {
    "id-not-text": (good("job", id=b"\xff\xfe"), "id is a blob, b'\\xff\\xfe'"),
    "id-not-utf-8": (good("job", id=BadText(b"a\xff")), "id is text that isn't UTF-8, b'a\\xff'"),
    "id-of-64-MB": (good("job", id=Zeros(64 << 20)), "id is a blob"),
    "id-too-long": (good("job", id="i" * 5000), "id is 'iii"),
    "attempt-negative": (good("job", attempt=-5), "attempt is -5"),
    "attempt-huge": (good("job", attempt=(1 << 63) - 1), "attempt is 9223372036854775807"),
    "due-text": (good("job", due_ms="tomorrow"), "due_ms is 'tomorrow'"),
    "due-real": (good("job", due_ms=1.5), "due_ms is 1.5"),
    "scheduled-text": (good("scheduled", due_ms="tomorrow"), "due_ms is 'tomorrow'"),
    "scheduled-beyond-calendars": (
        good("scheduled", due_ms=1 << 62),
        "due_ms is 4611686018427387904",
    ),
    "body-a-number": (good("job", body=7), "job envelope"),
    "body-not-utf-8": (good("job", body=BadText(b"\xff")), "job envelope"),
}


@pytest.mark.parametrize("kind", ONE_BY_ONE)
async def test_a_row_that_is_no_job_becomes_a_dead_letter_that_says_so(
    kind, tmp_path, sqlite_url, connect, recorder, caplog
):
    row, reason = ONE_BY_ONE[kind]
    worker, log = connect(sqlite_url, max_attempts=1), Log()
    worker.register("note", recorder.note)
    await worker.start()
    assert poison.insert(tmp_path / "jobs.db", [row]) == 1
    # Behind it, and woken for it.
    ours = await worker.perform(Job("note"))
    await recorder.until(lambda: ours in recorder.ended)
    worker.observe(log)
    (letter,) = await until_dead(worker, 1)
    assert reason in letter.error
    counts = (await worker.counts())["default"]
    assert (counts.waiting, counts.scheduled, counts.running, counts.dead) == (0, 0, 0, 1)
    assert all(len(record.getMessage()) < 1500 for record in caplog.records)
    # Requeued, it runs if its body is a job's, and comes back if not.
    assert await worker.dead_letters.requeue([letter.id]) == [letter.id]
    if "body" in kind:
        (again,) = await until_dead(worker, 1)
        assert await worker.dead_letters.discard([again.id]) == [again.id]
    else:
        await recorder.until(lambda: letter.id in recorder.ended)
    assert await worker.dead_letters.list() == []


async def until_dead(worker: offload.Worker, count: int) -> list[offload.DeadLetter]:
    """What is put aside is no event of a job, so this looks again and again."""
    async with asyncio.timeout(DEADLINE):
        while len(letters := await worker.dead_letters.list()) < count:
            await asyncio.sleep(0.01)
    return list(letters)


async def test_a_body_as_text_is_a_job_like_any_other(tmp_path, sqlite_url, connect, recorder):
    worker = connect(sqlite_url)
    worker.register("note", recorder.note)
    await worker.start()
    poison.insert(tmp_path / "jobs.db", [good("job", body=poison.body.decode())])
    await recorder.until_started(1)


@pytest.mark.parametrize("verdict", ["dead letter", "retry", "acknowledge"])
async def test_a_verdict_that_a_trigger_rejects_holds_up_no_other(
    verdict, tmp_path, sqlite_url, connect, recorder, caplog
):
    worker, log = connect(sqlite_url), Log()
    worker.observe(log)
    worker.register("hold", recorder.hold)

    async def end(args):
        await recorder.hold(args)
        raise offload.Reject("no") if verdict == "dead letter" else offload.Retry(after=3600)

    worker.register("end", end)
    await poison.make_tables(tmp_path / "jobs.db")
    on = {
        "dead letter": "INSERT ON offload_dead",
        "retry": "INSERT ON offload_scheduled",
        "acknowledge": "DELETE ON offload_job",
    }[verdict]
    side = "OLD" if verdict == "acknowledge" else "NEW"
    ids = [await worker.perform(Job("hold" if verdict == "acknowledge" else "end")) for _ in "123"]
    with contextlib.closing(sqlite3.connect(tmp_path / "jobs.db")) as connection, connection:
        connection.execute(
            f"CREATE TRIGGER no BEFORE {on} WHEN {side}.id = '{ids[1]}' "
            "BEGIN SELECT RAISE(ABORT, 'not this one'); END"
        )
    await worker.start()
    await recorder.until_started(3)
    recorder.gate.set()
    hook = {"dead letter": "job_dead", "retry": "job_retried", "acknowledge": "job_succeeded"}
    await log.until(hook[verdict], 2)
    later = await worker.perform(Job("hold"))
    await recorder.until(lambda: later in recorder.ended)
    counts = (await worker.counts())["default"]
    assert counts.running <= 2 and counts.waiting == 0
    assert any(ids[1] in record.getMessage() for record in caplog.records)


async def test_a_row_that_no_statement_may_change_is_left_where_it_is(
    tmp_path, sqlite_url, connect, recorder
):
    worker = connect(sqlite_url)
    worker.register("note", recorder.note)
    stuck = await worker.perform(Job("note"))
    with contextlib.closing(sqlite3.connect(tmp_path / "jobs.db")) as connection, connection:
        for change in ("UPDATE", "DELETE"):
            connection.execute(
                f"CREATE TRIGGER no_{change} BEFORE {change} ON offload_job "
                f"WHEN OLD.id = '{stuck}' BEGIN SELECT RAISE(ABORT, 'locked'); END"
            )
    await worker.start()
    ours = await worker.perform_many([Job("note")] * 30)
    await recorder.until(lambda: set(ours) <= set(recorder.ended))
    assert (await worker.counts())["default"].waiting == 1


async def test_a_check_that_another_program_added_to_the_dead_letters(
    tmp_path, sqlite_url, connect, recorder
):
    """An error too long for it is kept in short."""
    worker, log = connect(sqlite_url), Log()
    worker.observe(log)

    async def fail(args):
        raise offload.Reject("x" * 100_000)

    worker.register("fail", fail)
    await poison.make_tables(tmp_path / "jobs.db")
    with contextlib.closing(sqlite3.connect(tmp_path / "jobs.db")) as connection, connection:
        connection.execute(
            "CREATE TRIGGER short BEFORE INSERT ON offload_dead WHEN length(NEW.error) > 500 "
            "BEGIN SELECT RAISE(ABORT, 'CHECK constraint failed'); END"
        )
    await worker.start()
    await worker.perform(Job("fail"))
    await log.until("job_dead")
    (letter,) = await worker.dead_letters.list()
    assert 100 < len(letter.error) <= 500


INJECT = """
import sys
sys.path.insert(0, sys.argv[1])
import sqlite_poison as poison
from hypothesis import given, settings, strategies as st, HealthCheck
from pathlib import Path
@settings(
    max_examples=50, derandomize=True, database=None, deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(st.lists(poison.rows(), min_size=4, max_size=8))
def inject(rows):
    global taken
    taken += poison.insert(Path(sys.argv[2]), rows)
taken = 0
inject()
print(taken)
"""


async def test_another_process_pours_poison_into_a_busy_worker(
    tmp_path, sqlite_url, connect, recorder
):
    worker = connect(sqlite_url, max_attempts=1)
    worker.register("note", recorder.note)
    await worker.start()
    folder = str(Path(poison.__file__).parent)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", INJECT, folder, str(tmp_path / "jobs.db")),
        stdout=subprocess.PIPE,
    )
    pouring = asyncio.create_task(process.communicate())
    ours: list[str] = []

    async def ours_run() -> None:
        ours.extend(await worker.perform_many([Job("note")] * 10))
        await recorder.until(lambda: set(ours) <= set(recorder.ended))

    while not pouring.done():
        await ours_run()
    out, _ = await pouring
    assert int(out) > 40
    await ours_run()
    await look_and_clear_up(worker, tmp_path / "jobs.db")


async def test_an_id_is_not_cut_to_that_of_another(tmp_path, sqlite_url, connect, recorder):
    worker = connect(sqlite_url)
    worker.register("note", recorder.note)
    await poison.make_tables(tmp_path / "jobs.db")
    poison.insert(tmp_path / "jobs.db", [good("job", id=BadText(b"a\0\xfe")), good("job", id="b")])
    await worker.start()
    await recorder.until_started(1)
    (letter,) = await worker.dead_letters.list()
    assert letter.id.startswith("unreadable-")


@pytest.mark.parametrize("session", [-1, -(2**63), 2**63 - 1, 7, "me"])
async def test_a_row_that_is_leased_to_nobody_runs(
    session, tmp_path, sqlite_url, connect, recorder
):
    worker = connect(sqlite_url)
    worker.register("note", recorder.note)
    await worker.start()
    poison.insert(tmp_path / "jobs.db", [good("job", session=session)])
    await recorder.until_started(1)
