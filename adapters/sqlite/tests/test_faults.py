"""DUR: real kills, freezes and blocked loops, on a real file."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import time
from datetime import timedelta

import pytest
from processes import worker_process
from support import DEADLINE, Log

import offload
from offload import Job, constant


async def test_dur_1_and_2_killed_inside_a_handler(sqlite_url, connect, recorder):
    worker = connect(sqlite_url)
    worker.register("hold", recorder.note)
    async with worker_process(sqlite_url) as victim:
        ids = [await worker.perform(Job("hold")) for _ in range(30)]
        await victim.until("started", 25)
        scheduled = await worker.perform_in(Job("hold"), 0.5)
        await victim.kill()
    killed_at = time.time()
    await worker.start()
    await recorder.until_started(31)
    attempts = {job.id: job.attempt for job in recorder.started}
    assert set(attempts) == {*ids, scheduled}
    assert [attempts[job_id] for job_id in ids] == [2] * 25 + [1] * 5
    assert max(recorder.started_at.values()) - killed_at < worker.limits.recovery.total_seconds()


async def test_dur_2_a_living_worker_takes_over_from_a_killed_one(sqlite_url, connect, recorder):
    worker = connect(sqlite_url)
    async with worker_process(sqlite_url) as victim:
        await worker.perform(Job("hold"))
        await victim.until("started")
        worker.register("hold", recorder.note)
        await worker.start()
        await victim.kill()
        killed_at = time.time()
    await recorder.until_started(1)
    assert recorder.started[0].attempt == 2
    assert max(recorder.started_at.values()) - killed_at < worker.limits.recovery.total_seconds()


async def test_dur_6_a_job_that_kills_its_process_every_time(sqlite_url, connect):
    performer = connect(sqlite_url)
    await performer.perform(Job("die"))
    for attempt in range(1, 5):
        async with worker_process(sqlite_url) as victim:
            (started,) = await victim.until("started")
            assert started["attempt"] == attempt
            assert await victim.wait() == -signal.SIGKILL
    worker = connect(sqlite_url)
    log = Log()
    worker.observe(log)

    @worker.handler("die")
    async def die(args):
        pytest.fail("a fifth attempt")

    await worker.start()
    await log.until("job_dead")
    (letter,) = await worker.dead_letters.list()
    assert "attempt 4 of 4 never ended" in letter.error


@pytest.mark.parametrize("handler", ["sleep", "block-the-loop"])
async def test_dur_7_a_handler_longer_than_the_lease_runs_once(
    sqlite_url, connect, recorder, handler
):
    url = f"{sqlite_url}?lease=600ms"
    other = connect(f"{url}&queues=default,fence")
    other.register(handler, recorder.note)
    other.register("fence", recorder.note)
    async with worker_process(url) as busy:
        await other.perform(Job(handler, {"seconds": 2.5}))
        await busy.until("started")
        await other.start()
        await busy.until("slept")
        # What the other could have taken before this, it has taken.
        await other.perform(Job("fence", queue="fence"))
        await recorder.until_started(1)
    assert [job.handler for job in recorder.started] == ["fence"]


async def test_dur_8_a_worker_frozen_past_its_lease_settles_nothing(sqlite_url, connect, recorder):
    url = f"{sqlite_url}?lease=500ms"
    other = connect(url)
    other.register("sleep", recorder.hold)
    async with worker_process(url) as frozen:
        await other.perform(Job("sleep", {"seconds": 0.3}))
        await frozen.until("started")
        frozen.signal(signal.SIGSTOP)
        await other.start()
        await recorder.until_started(1)
        assert recorder.started[0].attempt == 2
        frozen.signal(signal.SIGCONT)
        # Thawed, it goes on to work, under a new session: this is behind whatever it settled.
        await other.perform_many([Job("note")] * 3)
        fence = await frozen.until("started", 2)
        assert fence[1]["handler"] == "note"
        assert sum(counts.running for counts in (await other.counts()).values()) >= 1
    recorder.gate.set()
    log = Log()
    other.observe(log)
    await other.stop()
    assert "sleep" not in {letter.handler for letter in await other.dead_letters.list()}


async def test_fail_8_bytes_that_do_not_decode(sqlite_url, connect, recorder, tmp_path):
    worker = connect(sqlite_url)
    log = Log()
    worker.observe(log)
    worker.register("note", recorder.note)
    await worker.perform(Job("note"))
    bodies = [b"", b"\xff\x00", b"[]", b'{"v":1}', b'{"v":"1"}', b'{"v":1,"id":"x","handler":3}']
    bodies.append(b'{"a":' * 100_000)
    with sqlite3.connect(tmp_path / "jobs.db") as connection:
        connection.executemany(
            "INSERT INTO offload_job (queue, id, due_ms, body) VALUES ('default', ?, 0, ?)",
            [(f"bad{n}", body) for n, body in enumerate(bodies)],
        )
    connection.close()
    await worker.perform(Job("note"))
    await worker.start()
    await log.until("job_dead", len(bodies))
    await recorder.until_started(2)
    letters = await worker.dead_letters.list()
    assert {letter.id for letter in letters} == {f"bad{n}" for n in range(len(bodies))}
    assert all(letter.handler is None and letter.args is None for letter in letters)
    with sqlite3.connect(tmp_path / "jobs.db") as connection:
        kept = connection.execute("SELECT body FROM offload_dead ORDER BY id").fetchall()
    connection.close()
    assert kept == [(body,) for body in bodies]


async def test_a_newer_wire_version_waits_for_a_worker_that_knows_it(sqlite_url, connect, tmp_path):
    worker = connect(sqlite_url)
    log = Log()
    worker.observe(log)
    await worker.start()
    with sqlite3.connect(tmp_path / "jobs.db") as connection:
        connection.execute(
            "INSERT INTO offload_job (queue, id, due_ms, body) VALUES ('default', 'new', 0, ?)",
            (b'{"v":2,"id":"new","handler":"note","enqueued_ms":1,"args":{}}',),
        )
    connection.close()
    await log.until("job_retried")
    assert (await worker.counts())["default"].scheduled == 1


async def test_dist_1_four_processes_each_job_once(sqlite_url, connect):
    performer = connect(sqlite_url)
    async with (
        worker_process(sqlite_url) as a,
        worker_process(sqlite_url) as b,
        worker_process(sqlite_url) as c,
        worker_process(sqlite_url) as d,
    ):
        workers = [a, b, c, d]
        ids: list[str] = []
        for _ in range(20):
            ids += await performer.perform_many([Job("note")] * 500)
        async with asyncio.timeout(DEADLINE * 2):
            while sum(len(w.reports) for w in workers) < 10_004:
                await asyncio.wait(
                    [asyncio.create_task(w._changed.wait()) for w in workers],
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for worker in workers:
                    worker._changed.clear()
        runs = [r["id"] for w in workers for r in w.reports if r["event"] == "started"]
    assert sorted(runs) == sorted(ids)


async def test_dist_5_namespaces_do_not_see_each_other(sqlite_url, connect, recorder):
    one, two = connect(sqlite_url, namespace="one"), connect(sqlite_url, namespace="two")
    one.register("note", recorder.note)
    two.register("note", recorder.note)
    await two.start()
    await one.perform(Job("note"))
    await two.perform(Job("note"))
    await recorder.until_started(1)
    assert (await one.counts())["default"].waiting == 1
    assert await two.counts() == {} or (await two.counts())["default"].waiting == 0


async def test_workers_are_woken_across_processes(sqlite_url, connect):
    """Not a bound on time, which is the benchmarks' to give: only far below any polling."""
    performer = connect(sqlite_url)
    async with worker_process(sqlite_url) as worker:
        delays = []
        for n in range(20):
            before = time.time()
            await performer.perform(Job("note"))
            started = await worker.until("started", n + 1)
            delays.append(started[-1]["at"] - before)
    assert sorted(delays)[10] < 0.05


async def test_without_named_pipes_it_polls(sqlite_url, connect, recorder, monkeypatch):
    def no_pipes(path, mode):
        raise OSError("not here")

    monkeypatch.setattr("os.mkfifo", no_pipes)
    worker, performer = connect(sqlite_url), connect(sqlite_url)
    worker.register("note", recorder.note)
    await worker.start()
    await performer.perform(Job("note"))
    await recorder.until_started(1)


async def test_a_retry_survives_a_kill(sqlite_url, connect, recorder):
    worker = connect(sqlite_url)
    log = Log()
    worker.observe(log)
    worker.register("fail", recorder.failing(1), backoff=constant(timedelta(seconds=0.2)))
    await worker.start()
    job_id = await worker.perform(Job("fail"))
    await log.until("job_retried")
    with sqlite3.connect(offload.config.parse_address(sqlite_url).path[1:]) as connection:
        rows = connection.execute("SELECT id, attempt FROM offload_scheduled").fetchall()
    connection.close()
    assert rows in ([(job_id, 1)], [])
    await recorder.until_started(2)
