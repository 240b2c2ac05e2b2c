"""DUR: workers and wires that are struck at every point of the protocol."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from datetime import timedelta

import pytest
from support import DEADLINE

from offload import BackendUnavailableError, Job, constant
from offload_redis import scripts

SOON = constant(timedelta(milliseconds=20))
LEASE_SECONDS = 1.0
BACK_SECONDS = LEASE_SECONDS + 3.0
"""Within which what a dead worker had must run again."""
WAIT = b"BZPOPMIN"
BEFORE, AFTER = False, True
"""The request reaches the server, or it is carried out and its answer doesn't come back."""


def digest_of(script):
    """What a request for this script has in it."""
    return script.digest.encode()


def ghost_takes_all(store, keys):
    """Give what waits to a session whose lease has run out."""
    for number, entry in enumerate(store.lpop(keys.ready, 1000), 1):
        store.hset(keys.running, f"ghost.{number}", entry)
    store.zadd(keys.leases, {"ghost": time.time_ns() // 1_000_000 - 1})


# -- kill -9, at each step -------------------------------------------------------


@contextlib.asynccontextmanager
async def killed_at(process, wire, script, answered):
    """Run a worker until it comes to this step, which kills it."""
    victims, step = [], digest_of(script)
    trap = wire.trap(step, lambda: victims[0].signal(signal.SIGKILL), answered=answered)
    async with process(wire.url, ready=False, lease="1s") as victim:
        victims.append(victim)
        await trap.until_struck()
        assert await victim.wait() == -signal.SIGKILL
        yield


@pytest.mark.parametrize(
    ("script", "answered", "handler", "attempt"),
    [
        pytest.param(scripts.FETCH, BEFORE, "note", 1, id="before fetch"),
        pytest.param(scripts.FETCH, AFTER, "note", 2, id="after fetch"),
        pytest.param(scripts.ACKNOWLEDGE, BEFORE, "note", 2, id="before acknowledge"),
        pytest.param(scripts.ACKNOWLEDGE, AFTER, "note", None, id="after acknowledge"),
        pytest.param(scripts.SETTLE, BEFORE, "unknown", 2, id="before retry"),
        pytest.param(scripts.SETTLE, AFTER, "unknown", 2, id="after retry"),
        pytest.param(scripts.EXTEND, BEFORE, "hold", 2, id="before extend"),
        pytest.param(scripts.EXTEND, AFTER, "hold", 2, id="after extend"),
    ],
)
async def test_dur_1_a_worker_killed(
    make, idle, process, wire, recorder, script, answered, handler, attempt
):
    worker = make(lease="1s")
    worker.register(handler, recorder.note)
    job_id = await worker.perform(Job(handler))
    async with killed_at(process, wire, script, answered):
        began = time.time()
        await worker.start()
        if attempt is not None:
            await recorder.until_started(1)
        await idle(worker)
    runs = [(job.id, job.attempt) for job in recorder.started]
    assert runs == ([] if attempt is None else [(job_id, attempt)])
    assert all(at - began < BACK_SECONDS for at in recorder.started_at.values())


@pytest.mark.parametrize("answered", [BEFORE, AFTER], ids=["before", "after"])
async def test_dur_1_a_worker_killed_while_it_buries_a_job(
    make, idle, process, wire, store, keys, answered
):
    worker = make(lease="1s")
    store.rpush(keys.ready, "job-1 0 5 garbage")
    async with killed_at(process, wire, scripts.SETTLE, answered):
        assert store.zcard(keys.dead) == answered
        assert store.hlen(keys.running) == (not answered)
        await worker.start()
        await idle(worker, dead=1)
    (letter,) = await worker.dead_letters.list()
    assert letter.id == "job-1"


@pytest.mark.parametrize("answered", [BEFORE, AFTER], ids=["before", "after"])
@pytest.mark.parametrize("script", [scripts.LAPSE, scripts.RECLAIM], ids=["lapse", "reclaim"])
async def test_dur_2_a_worker_killed_in_the_sweep(
    make, idle, process, wire, store, keys, recorder, script, answered
):
    worker = make(lease="1s")
    worker.register("note", recorder.note)
    ids = await worker.perform_many([Job("note")] * 150)
    ghost_takes_all(store, keys)
    async with killed_at(process, wire, script, answered):
        began = time.time()
        await worker.start()
        await recorder.until_started(150)
        await idle(worker)
    assert sorted(job.id for job in recorder.started) == sorted(ids)
    assert {job.attempt for job in recorder.started} == {2}
    assert max(recorder.started_at.values()) - began < BACK_SECONDS


async def test_a_worker_killed_with_the_marker_in_its_hands(make, process, wire, recorder):
    """The others look for themselves before long."""
    worker, performer = make(), make()
    worker.register("note", recorder.note)
    await performer.counts()
    async with process(wire.url, lease="1s") as victim:
        trap = wire.trap(WAIT, lambda: victim.signal(signal.SIGKILL), answered=True)
        wire.reset()  # it waits anew, and now in the trap
        await asyncio.wait_for(trap.seen.wait(), DEADLINE)
        await worker.start()
        await performer.perform(Job("note"))
        await trap.until_struck()
        assert await victim.wait() == -signal.SIGKILL
        await recorder.until_started(1)
    assert recorder.started[0].attempt == 1


async def test_dur_2_workers_that_reclaim_at_once(make, idle, store, keys, recorder):
    performer = make()
    ids = await performer.perform_many([Job("note")] * 500)
    ghost_takes_all(store, keys)
    workers = [make() for _ in range(4)]
    for worker in workers:
        worker.register("note", recorder.note)
    await asyncio.gather(*(worker.start() for worker in workers))
    await recorder.until_started(500)
    await idle(performer)
    assert sorted(job.id for job in recorder.started) == sorted(ids)
    assert {job.attempt for job in recorder.started} == {2}


# -- frozen, blocked, and with a wrong clock -------------------------------------


async def test_dur_8_a_worker_frozen_past_its_lease_settles_nothing(make, idle, process, recorder):
    other = make(lease="1s")
    other.register("sleep", recorder.hold)
    async with process(lease="1s") as frozen:
        await other.perform(Job("sleep", {"seconds": 0.2}))
        await frozen.until("started")
        frozen.signal(signal.SIGSTOP)
        await other.start()
        await recorder.until_started(1)
        assert recorder.started[0].attempt == 2
        frozen.signal(signal.SIGCONT)
        # It goes on under a new session: this is behind whatever it settled under the old one.
        await other.perform_many([Job("note")] * 3)
        started = await frozen.until("started", 2)
        assert started[1]["handler"] == "note"
        assert (await other.counts())["default"].running >= 1
    recorder.gate.set()
    await recorder.until(lambda: recorder.running == 0)
    assert [job.handler for job in recorder.started] == ["sleep"]


async def test_dur_7_a_blocked_loop_keeps_its_lease(make, process, recorder):
    other = make(lease="1s", queues="default,fence")
    other.register("block-the-loop", recorder.note)
    other.register("fence", recorder.note)
    async with process(lease="1s") as busy:
        await other.perform(Job("block-the-loop", {"seconds": 2.3}))
        await busy.until("started")
        await other.start()
        await busy.until("slept")
        await other.perform(Job("fence", queue="fence"))
        await recorder.until_started(1)
    assert [job.handler for job in recorder.started] == ["fence"]


@pytest.mark.parametrize("offset", ["+1h", "-1h"])
async def test_time_1_a_worker_whose_clock_is_wrong(make, idle, process, offset):
    """Neither early nor late, and its leases are good: the server's clock alone counts."""
    performer = make()
    environment = {
        "LD_PRELOAD": "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
        "FAKETIME": offset,
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    async with process(environment=environment, lease="1s") as worker:
        asked = time.time()
        await performer.perform_in(Job("note"), 0.6)
        (started,) = await worker.until("started")
        now = time.time()
        assert abs(started["at"] - now) > 3000, "its clock isn't wrong"
        assert 0.6 <= now - asked < 2.6
        await performer.perform(Job("sleep", {"seconds": 1.2}))
        await worker.until("slept")
        await idle(performer)
        assert len(await worker.until("started")) == 2


# -- the wire --------------------------------------------------------------------


async def test_dur_4_cut_in_the_request_and_in_the_reply(make, idle, wire, recorder):
    """A perform that returned is stored once, wherever its connection was cut."""
    through, worker = make(wire.url), make()
    worker.register("note", recorder.note)
    accepted = [await through.perform(Job("note"))]
    for byte in [*range(60), *range(60, 500, 20)]:
        wire.cut_request = byte
        accepted.append(await through.perform(Job("note")))
    for byte in range(4):
        wire.cut_reply = byte
        accepted.append(await through.perform(Job("note")))
    for byte in [*range(12), *range(20_000, 90_000, 9_999)]:
        if byte < 12:
            wire.cut_reply = byte
        else:
            wire.cut_request = byte
        accepted += await through.perform_many([Job("note")] * 250)
    assert wire.cuts == 60 + 22 + 4 + 12 + 8
    await worker.start()
    await recorder.until_started(len(accepted))
    await idle(worker)
    assert [job.id for job in recorder.started] == accepted


SCRIPTS = [scripts.FETCH, scripts.ACKNOWLEDGE, scripts.SETTLE, scripts.EXTEND]
STEPS = [*map(digest_of, SCRIPTS), WAIT]


@pytest.mark.parametrize("answered", [BEFORE, AFTER], ids=["before", "after"])
async def test_conn_1_a_worker_whose_every_step_is_cut(make, idle, wire, recorder, answered):
    """No run is lost, and none comes twice."""
    worker, performer = make(wire.url, lease="2s"), make()
    worker.register("note", recorder.note)
    worker.register("fail", recorder.failing(1), backoff=SOON)
    worker.register("bury", recorder.failing(9), max_attempts=1)
    await worker.start()
    traps = [wire.trap(step, answered=answered) for step in STEPS]
    ids, runs = [], 0
    for handler in ("note", "fail", "bury"):
        ids += await performer.perform_many([Job(handler)] * 4)
        runs += 8 if handler == "fail" else 4
        await recorder.until_started(runs)
    for trap in traps:
        await trap.until_struck()
    await idle(performer, dead=4)
    assert {job.id for job in recorder.started} == set(ids)
    assert len(recorder.started) == runs


@pytest.mark.parametrize("fault", ["reset", "half-open"])
async def test_conn_1_all_connections_are_cut_or_half_open(make, idle, wire, recorder, fault):
    worker = make(wire.url, timeout="300ms", lease="2s")
    performer = make(wire.url, timeout="300ms")
    worker.register("hold", recorder.hold)
    await worker.start()
    await performer.perform(Job("hold"))
    await recorder.until_started(1)
    if fault == "reset":
        assert wire.reset() >= 3
    else:
        assert wire.half_open() >= 3
        with pytest.raises(BackendUnavailableError, match="in time") as caught:
            await performer.perform(Job("hold"))
        assert caught.value.maybe_stored
    await performer.perform(Job("hold"))
    began = time.monotonic()
    await recorder.until_started(2)
    assert time.monotonic() - began < BACK_SECONDS
    recorder.gate.set()
    await idle(performer)
    assert [job.attempt for job in recorder.started] == [1, 1]


async def test_conn_1_flapping_under_load(make, idle, wire, recorder):
    worker, performer = make(wire.url, lease="2s"), make(wire.url)
    worker.register("note", recorder.note)
    await worker.start()
    accepted = []

    async def flap():
        struck = 0
        for pause in (0.1, 0.3, 0.5, 0.2, 0.1, 0.1, 0.4, 0.1):
            await asyncio.sleep(pause)
            struck += wire.reset()
        return struck

    flapping = asyncio.create_task(flap())
    while not flapping.done():
        with contextlib.suppress(BackendUnavailableError):
            accepted.append(await performer.perform(Job("note")))
        await asyncio.sleep(0.001)
    assert await flapping > 10
    await recorder.until(lambda: {job.id for job in recorder.started} >= set(accepted))
    await idle(performer)
    runs = [job.id for job in recorder.started]
    assert len(runs) == len(set(runs))


async def test_a_fetch_that_arrives_too_late_takes_no_job(make, idle, wire, store, recorder):
    """Held back on its way for long, it would lease jobs that no worker knows it has."""
    worker, performer = make(wire.url, timeout="300ms", lease="2s"), make()
    worker.register("note", recorder.note)
    await worker.start()
    await performer.perform(Job("note"))
    await recorder.until_started(1)
    wire.half_open(replies=False)  # one that is under way is answered still
    digest = digest_of(scripts.FETCH)
    async with asyncio.timeout(DEADLINE):
        while digest not in wire.swallowed:
            await asyncio.sleep(0.01)
    await performer.perform_many([Job("note")] * 5)
    await recorder.until_started(6)
    await idle(performer)
    begin = wire.swallowed.rindex(b"*", 0, wire.swallowed.index(digest))
    lines = bytes(wire.swallowed[begin:]).split(b"\r\n")
    fetch = lines[2 : 2 + 2 * int(lines[0][1:]) : 2]
    assert fetch[:2] == [b"EVALSHA", digest]
    # The held-back call comes when there is something to take again.
    store.rpush(fetch[3], "job-1 0 5 {}")
    assert store.execute_command(*fetch)[3] == []


async def test_life_6_stop_returns_though_the_server_is_silent(make, wire, recorder):
    worker, performer = make(wire.url, lease="1s", grace="0s"), make()
    worker.register("hold", recorder.hold)
    await worker.start()
    await performer.perform(Job("hold"))
    await recorder.until_started(1)
    wire.black_hole = True
    async with asyncio.timeout(DEADLINE):
        while digest_of(scripts.EXTEND) not in wire.swallowed:
            await asyncio.sleep(0.01)
    began = time.monotonic()
    await worker.stop()
    assert time.monotonic() - began < 3
