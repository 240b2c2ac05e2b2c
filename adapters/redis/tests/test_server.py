"""A server that dies, forgets, pauses, is full, and lets nobody in."""

from __future__ import annotations

import asyncio
import contextlib
import time
from datetime import timedelta

import pytest
from support import DEADLINE, Log

from offload import BackendUnavailableError, Job, constant

SOON = constant(timedelta(milliseconds=20))


# -- dying and forgetting --------------------------------------------------------


async def test_dur_3_a_server_killed_and_started_again(make, idle, start_server, recorder):
    server = await start_server()
    worker, performer = make(server.url), make(server.url)
    log = Log()
    worker.observe(log)
    worker.register("hold", recorder.hold)
    worker.register("fail", recorder.failing(9), max_attempts=1)
    await worker.start()
    dead = await performer.perform(Job("fail"))
    await log.until("job_dead")
    running = await performer.perform(Job("hold"))
    await recorder.until_started(2)
    waiting = await performer.perform(Job("hold", queue="other"))
    asked = time.time()
    scheduled = await performer.perform_in(Job("hold"), 1.0)
    await server.kill()
    with pytest.raises(BackendUnavailableError):
        await performer.perform(Job("hold"))
    with pytest.raises(BackendUnavailableError) as caught:
        await performer.perform(Job("hold"))
    assert not caught.value.maybe_stored  # it was never sent
    await server.start()
    assert [letter.id for letter in await performer.dead_letters.list()] == [dead]
    recorder.gate.set()
    await recorder.until_started(3)
    other = make(server.url, queues="other")
    other.register("hold", recorder.hold)
    await other.start()
    await recorder.until_started(4)
    runs = [(job.id, job.attempt) for job in recorder.started]
    assert sorted(runs) == sorted([(dead, 1), (running, 1), (waiting, 1), (scheduled, 1)])
    assert recorder.started_at[scheduled] - asked >= 1.0
    await idle(performer, dead=1)


async def test_a_server_that_forgets_its_scripts(make, idle, start_server, clients, recorder):
    server = await start_server()
    client = clients(server.port)
    worker, performer = make(server.url), make(server.url)
    worker.register("note", recorder.note)
    worker.register("fail", recorder.failing(1), backoff=SOON)
    await worker.start()
    ids = []
    for number in range(30):
        client.script_flush()
        ids += await performer.perform_many([Job("note" if number % 2 else "fail")] * 5)
    await recorder.until_started(225)
    await idle(performer)
    assert {job.id for job in recorder.started} == set(ids)
    assert len(recorder.started) == 225


async def test_a_server_that_forgets_everything_is_used_anew(
    make, idle, start_server, clients, recorder
):
    server = await start_server()
    client = clients(server.port)
    worker, performer = make(server.url), make(server.url)
    worker.register("note", recorder.note)
    await worker.start()
    await performer.perform(Job("note"))
    await recorder.until_started(1)
    client.flushall()
    await performer.perform(Job("note"))
    await recorder.until_started(2)
    await idle(performer)


async def test_what_is_stored_in_a_server_that_forgot_everything_is_seen(
    make, start_server, clients
):
    server = await start_server()
    performer = make(server.url)
    await performer.perform(Job("note"))
    clients(server.port).flushall()
    await performer.perform(Job("note"))
    assert (await make(server.url).counts())["default"].waiting == 1


async def test_all_connections_killed_under_load(make, idle, start_server, clients, recorder):
    server = await start_server()
    client = clients(server.port)
    worker, performer = make(server.url, lease="2s"), make(server.url)
    worker.register("note", recorder.note)
    await worker.start()
    accepted, unsure, killed = [], 0, 0
    for number in range(300):
        try:
            accepted += await performer.perform_many([Job("note")] * 3)
        except BackendUnavailableError:
            unsure += 3
        if number % 30 == 0:
            killed += client.client_kill_filter(_type="normal")
    assert killed >= 10
    await recorder.until(lambda: {job.id for job in recorder.started} >= set(accepted))
    await idle(performer)
    runs = [job.id for job in recorder.started]
    assert len(runs) == len(set(runs)) <= len(accepted) + unsure


@pytest.mark.parametrize("milliseconds", [150, 2500])
async def test_conn_3_a_paused_server(make, idle, start_server, clients, recorder, milliseconds):
    server = await start_server()
    worker, performer = make(server.url, timeout="400ms"), make(server.url, timeout="400ms")
    worker.register("note", recorder.note)
    await worker.start()
    await performer.perform(Job("note"))
    await recorder.until_started(1)
    clients(server.port).client_pause(milliseconds, all=True)
    began = time.monotonic()
    if milliseconds < 400:
        await performer.perform(Job("note"))
        assert time.monotonic() - began >= 0.1
    else:
        with pytest.raises(BackendUnavailableError, match="doesn't answer in time") as caught:
            await performer.perform(Job("note"))
        assert caught.value.maybe_stored
        assert time.monotonic() - began < 2
    async with asyncio.timeout(DEADLINE):
        while True:
            with contextlib.suppress(BackendUnavailableError):
                last = await performer.perform(Job("note"))
                break
    await recorder.until(lambda: last in recorder.started_at)
    await idle(performer)
    runs = [job.id for job in recorder.started]
    assert len(set(runs)) == len(runs)


# -- full ------------------------------------------------------------------------


@pytest.fixture
async def full(start_server, clients):
    """A server, and what makes it full, and not."""
    server = await start_server("--maxmemory-policy", "noeviction")
    client = clients(server.port)

    def fill(is_full=True):
        client.config_set("maxmemory", 1 if is_full else 0)

    return server, fill


async def test_perf_8_a_full_server_refuses(make, idle, full, recorder):
    server, fill = full
    worker, performer = make(server.url), make(server.url)
    log = Log()
    worker.observe(log)
    worker.register("hold", recorder.hold)
    worker.register("fail", recorder.failing(9), max_attempts=1)
    await worker.start()
    await performer.perform_many([Job("hold")] * 3)
    await recorder.until_started(3)
    fill()
    for call in (
        performer.perform(Job("hold")),
        performer.perform_in(Job("hold"), 5),
        performer.perform(Job("hold", queue="new")),
        make(server.url).perform(Job("hold")),
    ):
        with pytest.raises(BackendUnavailableError, match="out of memory") as caught:
            await call
        assert not caught.value.maybe_stored
    recorder.gate.set()
    await idle(performer)
    fill(False)
    await performer.perform(Job("fail"))
    await log.until("job_dead")
    assert len(recorder.started) == 4


async def test_jobs_that_fail_are_settled_in_a_full_server(make, idle, full, recorder):
    server, fill = full
    worker, performer = make(server.url), make(server.url)
    release = asyncio.Event()

    async def fail_when_full(args):
        recorder._begin(args)
        recorder._finish()
        await release.wait()
        raise ValueError

    worker.register("fail", fail_when_full, max_attempts=1)
    worker.register("retry", fail_when_full, backoff=constant(timedelta(minutes=1)))
    await worker.start()
    await performer.perform_many([Job("fail"), Job("retry")])
    await recorder.until_started(2)
    fill()
    release.set()
    await idle(performer, dead=1, scheduled=1)
    fill(False)


@pytest.mark.parametrize("what", ["waits", "is due later"])
async def test_perf_8_what_fills_a_server_is_worked_off(make, full, recorder, what):
    """Or nothing could ever make room: these jobs are what it is full of."""
    server, fill = full
    performer = make(server.url)
    worker = make(server.url)
    worker.register("note", recorder.note)
    if what == "waits":
        await performer.perform_many([Job("note")] * 5)
        fill()
        with contextlib.suppress(BackendUnavailableError):
            await worker.start()
    else:
        await worker.start()
        for _ in range(5):
            await performer.perform_in(Job("note"), 0.3)
        fill()
    await recorder.until_started(5)


async def test_dur_7_a_lease_is_held_while_the_server_is_full(
    make, full, clients, keys, until_extended, recorder
):
    server, fill = full
    worker = make(server.url, lease="1s")
    log = Log()
    worker.observe(log)
    worker.register("hold", recorder.hold)
    await worker.start()
    await worker.perform(Job("hold"))
    await recorder.until_started(1)
    fill()
    await until_extended(clients(server.port), keys)
    recorder.gate.set()
    await log.until("job_succeeded")


async def test_dur_2_the_jobs_of_a_dead_worker_go_back_while_the_server_is_full(
    make, full, clients, keys, recorder
):
    server, fill = full
    worker = make(server.url, lease="1s")
    worker.register("note", recorder.note)
    await worker.perform(Job("note"))
    client = clients(server.port)
    client.hset(keys.running, "ghost.1", client.lpop(keys.ready))
    client.zadd(keys.leases, {"ghost": time.time_ns() // 1_000_000 + 500})
    await worker.start()
    fill()
    await recorder.until_started(1)
    assert recorder.started[0].attempt == 2


async def test_stop_gives_back_to_a_full_server(make, full, clients, keys, recorder):
    server, fill = full
    worker = make(server.url, lease="30s", grace="0s")
    worker.register("hold", recorder.hold)
    await worker.start()
    job_id = await worker.perform(Job("hold"))
    await recorder.until_started(1)
    fill()
    report = await worker.stop()
    assert report.returned == (job_id,)
    assert (await worker.counts())["default"].waiting == 1


# -- replicas --------------------------------------------------------------------


async def test_perf_8_a_read_only_replica(make, start_server):
    master = await start_server()
    replica = await start_server("--replicaof", f"127.0.0.1 {master.port}")
    for call in (
        make(replica.url).perform(Job("note")),
        make(replica.url).perform_in(Job("note"), 1),
        make(replica.url).start(),
    ):
        with pytest.raises(BackendUnavailableError, match="read-only replica") as caught:
            await call
        assert not caught.value.maybe_stored


async def test_a_master_that_becomes_a_replica(make, idle, start_server, clients, recorder):
    server, other = await start_server(), await start_server()
    worker, performer = make(server.url), make(server.url)
    worker.register("note", recorder.note)
    await worker.start()
    await performer.perform(Job("note"))
    await recorder.until_started(1)
    await idle(performer)
    client = clients(server.port)
    client.replicaof("127.0.0.1", other.port)
    with pytest.raises(BackendUnavailableError, match="read-only replica") as caught:
        await performer.perform(Job("note"))
    assert not caught.value.maybe_stored
    client.replicaof("NO", "ONE")
    await performer.perform(Job("note"))
    await recorder.until_started(2)


async def test_dur_9_wait_replicas(make, start_server, clients, space):
    master = await start_server("--repl-diskless-sync-delay", "0")
    worker = make(master.url, wait_replicas=1, timeout="400ms")
    with pytest.raises(BackendUnavailableError, match="stored, but 0 replicas") as caught:
        await worker.perform(Job("note"))
    assert caught.value.maybe_stored
    replica = await start_server("--replicaof", f"127.0.0.1 {master.port}")
    async with asyncio.timeout(DEADLINE):
        while clients(replica.port).info("replication")["master_link_status"] != "up":
            await asyncio.sleep(0.02)
    async with asyncio.timeout(DEADLINE):
        while True:  # the link is up a little before the replica is asked what it has
            with contextlib.suppress(BackendUnavailableError):
                job_id = await worker.perform(Job("note"))
                break
    stored = clients(replica.port).lrange(f"{space}:{{default}}:ready", 0, -1)
    assert stored[-1].startswith(job_id.encode())
