"""DUR and CONN: workers and wires that are struck at every point of the protocol."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
import textwrap
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest
from support import DEADLINE, Log

from offload import BackendUnavailableError, Job, constant

SOON = constant(timedelta(milliseconds=20))
BACK_SECONDS = 4.0
"""Within which what a dead worker had must run again."""
STUCK_SECONDS = 3 * (1 + 1) + 2.0
"""The same for a dead wire, with a lease of 2 s."""
BEFORE, AFTER = False, True
"""The request reaches the broker, or it is carried out and its answer doesn't come back."""

PUBLISH = b"\x00\x3c\x00\x28"
ACKNOWLEDGE = b"\x00\x00\x00\x0d\x00\x3c\x00\x50"
DELAYED = b"offload-hold"
BURIED = b"offload-died"


# -- kill -9, at each step -------------------------------------------------------


@contextlib.asynccontextmanager
async def killed_at(process, wire, token, answered):
    """Run a worker until it comes to this step, which kills it."""
    victims = []
    trap = wire.trap(token, lambda: victims[0].signal(signal.SIGKILL), answered=answered)
    async with process(wire.url, ready=False, lease="2s") as victim:
        victims.append(victim)
        await trap.until_struck()
        assert await victim.wait() == -signal.SIGKILL
        yield


async def test_dur_1_a_worker_killed_while_it_runs_a_job(make, process, recorder, drained):
    survivor = make()
    survivor.register("hold", recorder.note)
    job_id = await survivor.perform(Job("hold"))
    async with process() as victim:
        await victim.until("started")
        await victim.kill()
    began = time.time()
    await survivor.start()
    await recorder.until_started(1)
    assert [(job.id, job.attempt) for job in recorder.started] == [(job_id, 2)]
    assert recorder.started_at[job_id] - began < BACK_SECONDS
    await drained(survivor)


@pytest.mark.parametrize(
    ("token", "answered", "handler", "runs"),
    [
        pytest.param(ACKNOWLEDGE, BEFORE, "note", [2], id="before acknowledge"),
        pytest.param(ACKNOWLEDGE, AFTER, "note", [], id="after acknowledge"),
        pytest.param(DELAYED, BEFORE, "unknown", [2], id="before retry"),
        pytest.param(DELAYED, AFTER, "unknown", [2, 2], id="after retry"),
    ],
)
async def test_dur_1_a_worker_killed(
    make, process, wire, recorder, drained, token, answered, handler, runs
):
    """A retry that is stored, and whose job is not acknowledged, comes twice; never none."""
    worker = make()
    worker.register(handler, recorder.note)
    job_id = await worker.perform(Job(handler))
    async with killed_at(process, wire, token, answered):
        await worker.start()
        await recorder.until_started(len(runs))
    assert [(job.id, job.attempt) for job in recorder.started] == [(job_id, n) for n in runs]
    await drained(worker)


@pytest.mark.parametrize("answered", [BEFORE, AFTER], ids=["before", "after"])
async def test_dur_1_a_worker_killed_while_it_buries_a_job(make, process, wire, stranger, answered):
    worker = make()
    log = Log()
    worker.observe(log)
    await worker.start()  # which declares the queue
    await worker.stop()
    await stranger.publish("q.default", b"garbage", message_id="m1")
    async with killed_at(process, wire, BURIED, answered):
        await stranger.until("dead.default", ready=int(answered))
        await worker.start()
        await log.until("job_dead")
    assert {letter.id for letter in await worker.dead_letters.list()} == {"m1"}


# -- frozen and blocked ----------------------------------------------------------


async def test_dur_8_a_frozen_worker_settles_nothing(make, process, stranger, recorder):
    other = make(grace="0s")
    other.register("sleep", recorder.hold)
    async with process(lease="2s") as frozen:
        job_id = await other.perform(Job("sleep", {"seconds": 0.3}))
        await frozen.until("started")
        frozen.signal(signal.SIGSTOP)
        await other.start()
        await recorder.until_started(1)
        assert [(job.id, job.attempt) for job in recorder.started] == [(job_id, 2)]
        frozen.signal(signal.SIGCONT)
        await frozen.until("slept")
        await other.perform_many([Job("note")] * 50)
        await frozen.until("started", 2)  # it has come back by itself
    assert (await other.stop()).returned == (job_id,)
    await stranger.take("q.default")


async def test_dur_7_a_blocked_loop_keeps_its_jobs(make, process, recorder):
    other = make(queues="default,fence")
    other.register("block-the-loop", recorder.note)
    other.register("fence", recorder.note)
    async with process(lease="2s", concurrency=3) as busy:
        await other.perform(Job("hold"))
        await busy.until("started")
        await other.perform(Job("block-the-loop", {"seconds": 3.5}))
        await busy.until("started", 2)
        await other.start()
        await busy.until("slept")
        await other.perform(Job("fence", queue="fence"))
        await recorder.until_started(1)
    assert recorder.started[0].handler == "fence"


async def test_a_loop_that_was_blocked_performs_again(make, stranger):
    """The storing connection has no thread of its own: the broker ended it meanwhile."""
    worker = make(lease="2s")
    await worker.perform(Job("note"))
    time.sleep(3.5)
    try:
        await worker.perform(Job("note"))
        stored = 2
    except BackendUnavailableError:
        await worker.perform(Job("note"))
        stored = 2
    await stranger.until("q.default", ready=stored)


# -- the wire --------------------------------------------------------------------


async def test_dur_4_cut_in_the_request_and_in_the_reply(make, wire, recorder, drained):
    """A perform that returned is stored, wherever the connection of another one was cut."""
    through, worker = make(wire.url), make()
    worker.register("note", recorder.note)
    accepted, failed = [await through.perform(Job("note"))], 0

    async def perform(*jobs):
        nonlocal failed
        try:
            accepted.extend(await through.perform_many(jobs))
        except BackendUnavailableError as error:
            failed += error.maybe_stored
        # The next one connects anew.
        accepted.append(await through.perform(Job("note")))

    for byte in [0, 1, 7, 8, 20, 60, 100, 200, 300]:
        wire.cut_request = byte
        await perform(Job("note"))
    for byte in [0, 1, 7, 20]:
        wire.cut_reply = byte
        await perform(Job("note"))
    for byte in [1, 100, 5_000, 20_000]:
        wire.cut_request = byte
        await perform(*[Job("note")] * 250)
    for byte in [0, 30]:
        wire.cut_reply = byte
        await perform(*[Job("note")] * 250)
    assert wire.cuts == 19
    assert failed >= 12
    await worker.start()
    await recorder.until(lambda: {job.id for job in recorder.started} >= set(accepted))
    await drained(worker)


@pytest.mark.parametrize("what", ["request", "reply"])
async def test_conn_1_cut_while_it_connects(make, wire, what):
    """Nothing was stored then, and the error says so."""
    for byte in (0, 4, 8, 100, 400):
        performer = make(wire.url)
        setattr(wire, f"cut_{what}", byte)
        with contextlib.suppress(BackendUnavailableError):
            await performer.perform(Job("note"))
        await performer.perform(Job("note"))
        worker = make(wire.url)
        setattr(wire, f"cut_{what}", byte)
        with contextlib.suppress(BackendUnavailableError):
            await worker.start()
            await worker.stop()
        setattr(wire, f"cut_{what}", None)


@pytest.mark.parametrize("token", [PUBLISH, ACKNOWLEDGE, DELAYED, BURIED])
@pytest.mark.parametrize("answered", [BEFORE, AFTER], ids=["before", "after"])
async def test_conn_1_a_worker_whose_steps_are_cut(make, wire, recorder, token, answered, drained):
    """No job is lost, and the worker comes back by itself."""
    worker, performer = make(wire.url, lease="2s", concurrency=4), make()
    worker.register("note", recorder.note)
    worker.register("fail", recorder.failing(1), backoff=SOON)
    worker.register("bury", recorder.failing(9), max_attempts=1)
    await worker.start()
    trap = wire.trap(token, answered=answered)
    ids = []
    for handler in ("note", "fail", "bury"):
        ids += await performer.perform_many([Job(handler)] * 4)
    await trap.until_struck()
    await recorder.until(lambda: {job.id for job in recorder.started} == set(ids))
    await performer.perform(Job("fail"))
    await recorder.until(lambda: len({job.id for job in recorder.started}) == 13)
    async with asyncio.timeout(DEADLINE):
        while len({letter.id for letter in await performer.dead_letters.list()}) < 4:
            await asyncio.sleep(0.05)


async def test_conn_1_what_is_due_comes_back_after_a_cut(make, wire, stranger, recorder):
    worker, performer = make(wire.url), make()
    worker.register("note", recorder.note)
    await worker.start()
    asked = time.time()
    ids = [await performer.perform_in(Job("note"), 1.2) for _ in range(10)]
    await stranger.until("soon.default", ready=0)
    assert wire.reset() >= 1
    await recorder.until_started(10)
    assert sorted(job.id for job in recorder.started) == sorted(ids)
    assert {job.attempt for job in recorder.started} == {1}
    assert min(recorder.started_at.values()) >= asked + 1.2 - 0.03


async def test_conn_1_half_open_wires(make, string_wire, recorder):
    """Lost this way, that way and both ways, all at once in three queues."""
    queues = {"both": {}, "requests": {"replies": False}, "replies": {"requests": False}}
    async with contextlib.AsyncExitStack() as stack:
        for queue, directions in queues.items():
            wire = await stack.enter_async_context(string_wire())
            worker = make(wire.url, lease="2s", queues=queue, timeout="1s")
            worker.register("note", recorder.note)
            await worker.start()
            stack.push_async_callback(worker.stop)
            assert wire.half_open(**directions) >= 1
        performer = make()
        began = time.time()
        ids = [await performer.perform(Job("note", queue=queue)) for queue in queues]
        # Where requests are lost, a job runs, and its acknowledgement doesn't arrive.
        await recorder.until(lambda: recorder.started_at.keys() == set(ids))
        assert max(recorder.started_at.values()) - began < STUCK_SECONDS


async def test_conn_1_a_performer_on_a_half_open_wire(make, wire, stranger):
    performer = make(wire.url, timeout="400ms")
    await performer.perform(Job("note"))
    assert wire.half_open() == 1
    began = time.monotonic()
    with pytest.raises(BackendUnavailableError, match="in time") as caught:
        await performer.perform(Job("note"))
    assert caught.value.maybe_stored
    assert time.monotonic() - began < 3
    await performer.perform(Job("note"))
    await stranger.until("q.default", ready=2)


async def test_conn_1_verdicts_and_due_jobs_share_a_half_open_wire(make, wire, recorder, caplog):
    """One call that gives the connection up must not end the task behind another."""
    worker, performer = make(wire.url, timeout="500ms"), make()
    fail = asyncio.Event()
    log = Log()
    worker.observe(log)

    async def failing(args):
        recorder._begin(args)
        recorder._finish()
        if len(recorder.started) == 2:
            await fail.wait()
            raise ValueError

    worker.register("warm", recorder.failing(1), backoff=SOON, max_attempts=1)
    worker.register("fail", failing, backoff=SOON)
    worker.register("note", recorder.note)
    await worker.start()
    await performer.perform(Job("warm"))  # now the worker has a publishing connection
    await log.until("job_dead")
    await performer.perform(Job("fail"))
    await recorder.until_started(2)
    await performer.perform_in(Job("note"), 0.4)
    await asyncio.sleep(0.2)  # it is held by now
    wire.half_open()
    await asyncio.sleep(0.4)  # it is due, and on its way: the verdict comes a little later
    fail.set()
    await recorder.until(lambda: {job.handler for job in recorder.started} >= {"note", "fail"})
    again = await performer.perform(Job("note"))
    later = await performer.perform_in(Job("note"), 0.1)
    await recorder.until(lambda: {again, later} <= recorder.started_at.keys())
    await log.until("job_succeeded", 3)


async def test_fifo_1_jobs_that_suddenly_take_longer(make, recorder):
    """An engine that works off what it took ahead doesn't fetch; its jobs keep their order."""
    worker = make(concurrency=1)

    async def work(args):
        await asyncio.sleep(0.05)
        await recorder.note(args)

    worker.register("note", recorder.note)
    worker.register("work", work)
    names = 8 * (100 * ["note"] + 10 * ["work"])
    await worker.perform_many([Job(name, {"n": n}) for n, name in enumerate(names)])
    await worker.start()
    await recorder.until_started(len(names))
    assert [args["n"] for args in recorder.args] == [*range(len(names))]


async def test_a_stale_job_that_can_t_be_given_back_is_not_forgotten(make, wire, recorder, drained):
    worker, performer = make(wire.url, queues="a,b", concurrency=1), make()
    worker.register("hold", recorder.hold)
    await worker.start()
    trap = wire.trap(PUBLISH)  # the first that the worker does is giving back
    ids = [await performer.perform(Job("hold", queue="a"))]
    await recorder.until_started(1)
    ids.append(await performer.perform(Job("hold", queue="b")))
    await trap.until_struck()
    recorder.gate.set()
    await recorder.until_started(2)
    assert [job.id for job in recorder.started] == ids
    await drained(worker, "a")
    await drained(worker, "b")


async def test_conn_1_flapping_under_load(make, wire, recorder, drained):
    worker, performer = make(wire.url), make(wire.url)
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
    assert await flapping > 8
    # What runs once more is in front of this one.
    accepted.append(await make().perform(Job("note")))
    await recorder.until(lambda: {job.id for job in recorder.started} >= set(accepted))
    await drained(worker)


# -- two queues, order -----------------------------------------------------------


async def test_que_3_a_stuck_queue_doesn_t_make_the_other_go_round(make, wire, recorder, drained):
    """What can't run is delivered now and then, not over and over."""
    worker, performer = make(wire.url, queues="stuck,free", concurrency=2), make()
    worker.register("hold", recorder.hold)
    worker.register("note", recorder.note)
    await worker.start()
    await performer.perform(Job("hold", queue="stuck"))
    await recorder.until_started(1)
    await performer.perform_many([Job("hold", queue="stuck")] * 20)
    await recorder.until_started(2)
    ids = await performer.perform_many([Job("note", queue="free")] * 20)
    before = wire.deliveries
    # Both slots are taken. Five times the 200 ms after which a job goes back.
    await asyncio.sleep(1.0)
    assert wire.deliveries - before <= 8
    recorder.gate.set()
    await recorder.until_started(41)
    assert len({job.id for job in recorder.started}) == 41
    assert {job.attempt for job in recorder.started} == {1}
    assert {job.id for job in recorder.started} >= set(ids)
    assert wire.deliveries <= 3 * 41
    await drained(worker, "stuck")


async def test_fifo(make, recorder, drained):
    worker, performer = make(concurrency=1), make()
    worker.register("note", recorder.note)
    ids = await performer.perform_many([Job("note")] * 300)
    await worker.start()
    ids += await performer.perform_many([Job("note")] * 300)
    await recorder.until_started(600)
    assert [job.id for job in recorder.started] == ids
    await drained(worker)


# -- the end ---------------------------------------------------------------------


async def test_life_6_stop_gives_back_what_it_has(make, stranger, recorder):
    """Prefetched and running alike; the attempt doesn't count."""
    worker, other = make(concurrency=2, grace="0s"), make(concurrency=1)
    worker.register("hold", recorder.hold)
    other.register("hold", recorder.note)
    await worker.start()
    ids = await worker.perform_many([Job("hold")] * 10)
    await recorder.until_started(2)
    report = await worker.stop()
    assert sorted(report.returned) == sorted(ids[:2])
    ids.append(await other.perform(Job("hold")))
    await other.start()
    await recorder.until(lambda: ids[-1] in recorder.started_at)
    assert sorted(job.id for job in recorder.started[2:]) == sorted(ids)
    assert {job.attempt for job in recorder.started} == {1}


async def test_life_5_what_is_done_when_it_stops_is_not_run_again(make, recorder):
    """A verdict that was settled is on the broker before the connection ends."""
    other = make(concurrency=1)
    other.register("note", recorder.note)
    ids = []
    for _ in range(10):
        worker = make()
        worker.register("note", recorder.note)
        await worker.start()
        ids.append(await other.perform(Job("note")))
        await recorder.until(lambda: ids[-1] in recorder.started_at)
        assert not (await worker.stop()).returned
    ids.append(await other.perform(Job("note")))
    await other.start()
    await recorder.until(lambda: ids[-1] in recorder.started_at)
    assert [(job.id, job.attempt) for job in recorder.started] == [(each, 1) for each in ids]


@pytest.mark.parametrize("running", ["hold", "note"])
async def test_life_6_stop_returns_though_the_broker_is_silent(make, wire, recorder, running):
    worker = make(wire.url, grace="0s")
    worker.register("hold", recorder.hold)
    worker.register("note", recorder.note)
    await worker.start()
    await worker.perform(Job(running))
    await recorder.until_started(1)
    wire.black_hole = True
    before = set(threading.enumerate())
    began = time.monotonic()
    await worker.stop()
    assert time.monotonic() - began < 3
    ended = {thread.name for thread in before - set(threading.enumerate())}
    assert ended == {"offload-amqp", "offload-vigil"}


def open_files():
    found = set()
    for each in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.add((each.name, str(each.readlink())))
    return found


async def test_life_9_nothing_is_left(make, stranger, recorder, broker, space, connect):
    worker = make()
    worker.register("note", recorder.note)
    for _ in range(2):
        before = (asyncio.all_tasks(), set(threading.enumerate()), open_files())
        await worker.start()
        await worker.perform(Job("note"))
        await worker.perform_in(Job("note"), 0.01)
        await recorder.until_started(2)
        recorder.started.clear()
        await worker.stop()
        after = (asyncio.all_tasks(), set(threading.enumerate()), open_files())
    assert after == before


async def test_life_4_nothing_is_left_of_a_start_that_failed(make, wire):
    worker = make(wire.url)
    wire.refusing = True
    for _ in range(2):
        before = (set(threading.enumerate()), len(open_files()))
        with pytest.raises(BackendUnavailableError):
            await worker.start()
    assert (set(threading.enumerate()), len(open_files())) == before
    wire.refusing = False
    await worker.start()


LOOPS = textwrap.dedent(
    """
    import asyncio, sys, threading, offload

    worker = offload.connect(sys.argv[1])

    @worker.handler("note")
    async def note(args):
        print("ran", flush=True)
        ran.set()

    async def perform():
        await worker.perform(offload.Job("note", queue="other"))

    async def start():
        await worker.start()
        await worker.perform(offload.Job("note", queue="other"))

    async def run():
        global ran
        ran = asyncio.Event()
        await worker.start()
        await worker.perform(offload.Job("note"))
        await asyncio.wait_for(ran.wait(), 10)
        await worker.stop()

    for main in (perform, perform, start, start, run):
        asyncio.run(main())
    print(threading.active_count())
    """
)


async def test_life_9_a_worker_outlives_its_loop(broker, space, stranger):
    """Without a word: a program that calls `asyncio.run` twice does nothing wrong."""
    command = [sys.executable, "-c", LOOPS, f"{broker.url}?namespace={space}"]
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=DEADLINE, check=False
    )
    assert done.stdout == "ran\n1\n", done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == 0
    await stranger.until("q.other", ready=4)


async def test_cancelled_performs_leave_the_worker_usable(make, recorder, drained):
    """What was cancelled may be stored or not; what came back is."""
    worker = make()
    worker.register("note", recorder.note)
    accepted = []
    await worker.perform(Job("note"))
    for turns in range(20):
        performing = asyncio.create_task(worker.perform(Job("note")))
        for _ in range(turns % 8):
            await asyncio.sleep(0)
        performing.cancel()
        await asyncio.wait([performing])
        accepted.append(await worker.perform(Job("note")))
    await worker.start()
    await recorder.until(lambda: {job.id for job in recorder.started} >= set(accepted))
    await drained(worker)
