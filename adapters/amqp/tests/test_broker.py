"""A broker that dies, is full, ends connections, loses a queue, and lets nobody in."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import traceback
from datetime import timedelta
from urllib.parse import quote, urlsplit

import pytest
from support import DEADLINE, Log

import offload
from offload import BackendError, BackendUnavailableError, Job, constant

pytestmark = pytest.mark.xdist_group("struck broker")  # one process, so that it starts once

CANARY = "S3cr+t/pä:ss@word"


@pytest.fixture
def struck(struck_broker, make):
    """Makes workers at the broker that is struck, with short timeouts."""

    def struck(**options):
        return make(struck_broker.url, **{"timeout": "2s", **options})

    return struck


async def perform_until(worker, job):
    """Perform as soon as the broker is back."""
    async with asyncio.timeout(DEADLINE):
        while True:
            with contextlib.suppress(BackendUnavailableError):
                return await worker.perform(job)
            await asyncio.sleep(0.05)


# -- dying -----------------------------------------------------------------------


async def test_dur_3_a_broker_killed_and_started_again(struck_broker, struck, recorder):
    """All that was confirmed is there, and the worker comes back by itself."""
    worker, performer = struck(), struck()
    log = Log()
    worker.observe(log)
    worker.register("hold", recorder.hold)
    worker.register("fail", recorder.failing(1), backoff=constant(timedelta(seconds=4)))
    worker.register("bury", recorder.failing(9), max_attempts=1)
    await worker.start()
    # RabbitMQ writes down within half a second that a quorum queue is there. Killed sooner, it
    # forgets what is in it, though it has confirmed it.
    await performer.perform_in(Job("hold"), 3600)
    await performer.perform(Job("hold", queue="other"))
    await asyncio.sleep(1.0)
    dead = await performer.perform(Job("bury"))
    await log.until("job_dead")
    retrying = await performer.perform(Job("fail"))
    await log.until("job_retried")
    running = await performer.perform(Job("hold"))
    await recorder.until_started(3)
    waiting = await performer.perform_many([Job("hold", queue="other")] * 50)
    asked, scheduled = time.time(), {}
    for delay in (0.5, 2.5, 5, 9.5):
        scheduled[await performer.perform_in(Job("hold"), delay)] = delay
    await struck_broker.kill()
    began = time.monotonic()
    with pytest.raises(BackendUnavailableError):
        await performer.perform(Job("hold"))
    with pytest.raises(BackendUnavailableError) as caught:
        await performer.perform(Job("hold"))
    assert not caught.value.maybe_stored  # it was never sent
    assert time.monotonic() - began < 3
    await struck_broker.start()
    back = time.time()
    await recorder.until(lambda: len([j for j in recorder.started if j.id == running]) >= 2)
    await recorder.until(lambda: len([j for j in recorder.started if j.id == retrying]) >= 2)
    for job_id in scheduled:
        await recorder.until(lambda job_id=job_id: job_id in recorder.started_at)
    recorder.gate.set()
    other = struck(queues="other")
    other.register("hold", recorder.hold)
    await other.start()
    await recorder.until(lambda: recorder.started_at.keys() >= set(waiting))
    assert dead in [letter.id for letter in await performer.dead_letters.list()]
    for job_id, delay in scheduled.items():
        assert asked + delay - 0.03 <= recorder.started_at[job_id]
        assert recorder.started_at[job_id] <= max(asked + delay, back) + 3.0
    attempts = {job.attempt for job in recorder.started if job.id in scheduled}
    assert 1 in attempts
    assert {job.attempt for job in recorder.started if job.id in waiting} == {1}
    assert [j.attempt for j in recorder.started if j.id == retrying][:2] == [1, 2]


# -- connections and queues that the broker ends ----------------------------------


async def test_conn_1_the_broker_closes_all_connections(struck_broker, struck, recorder):
    worker, performer = struck(), struck()
    worker.register("note", recorder.note)
    worker.register("hold", recorder.hold)
    await worker.start()
    held = await performer.perform(Job("hold"))
    await recorder.until_started(1)
    due = await performer.perform_in(Job("note"), 1.9)
    accepted = []
    closing = asyncio.create_task(struck_broker.control("close_all_connections", "by a test"))
    while not closing.done():
        with contextlib.suppress(BackendUnavailableError):
            accepted.append(await performer.perform(Job("note")))
        await asyncio.sleep(0.005)
    await closing
    accepted.append(await perform_until(performer, Job("note")))
    await recorder.until(lambda: recorder.started_at.keys() >= {held, due, *accepted})
    await recorder.until(lambda: sum(job.id == held for job in recorder.started) == 2)
    recorder.gate.set()


@pytest.mark.parametrize("name", ["q.default", "soon.default", "dead.default"])
async def test_conn_1_a_queue_is_deleted(make, stranger, recorder, name):
    """It is made again, and what was accepted afterwards is run."""
    worker, performer = make(), make()
    worker.register("note", recorder.note)
    worker.register("bury", recorder.failing(9), max_attempts=1)
    log = Log()
    worker.observe(log)
    await worker.start()
    ids = [await performer.perform(Job("note"))]
    await recorder.until_started(1)
    await stranger.delete(name)
    if name != "dead.default":
        await stranger.until(name, ready=0, consumers=1)  # the worker itself made it again
    ids.append(await perform_until(performer, Job("note")))
    ids.append(await performer.perform_in(Job("note"), 0.2))
    await recorder.until(lambda: recorder.started_at.keys() >= set(ids))
    await performer.perform(Job("bury"))
    await log.until("job_dead")
    assert len(await performer.dead_letters.list()) == 1


async def test_conn_1_a_queue_is_deleted_and_made_again_at_once(make, stranger, recorder):
    """By a perform, before the worker knows: RabbitMQ then lets its consumer wait for ever."""
    worker, performer = make(), make()
    worker.register("note", recorder.note)
    await worker.start()
    await performer.perform(Job("note"))
    await recorder.until_started(1)
    await stranger.delete("q.default")
    last = await perform_until(performer, Job("note"))
    await recorder.until(lambda: last in recorder.started_at)


@pytest.mark.parametrize("delay", [0, 0.5, 2.2])
async def test_perf_1_no_worker_and_the_queue_is_deleted(make, stranger, recorder, delay):
    """A perform makes it again or raises: what it returned is run."""
    performer, worker = make(), make()
    worker.register("note", recorder.note)
    await performer.perform_in(Job("note"), 2.2)
    await performer.perform(Job("note"))
    for name in ("q.default", "soon.default", "delay.0"):
        await stranger.delete(name)
    ids, failed = [], 0
    for _ in range(4):
        try:
            ids.append(await performer.perform_in(Job("note"), delay))
        except BackendUnavailableError:
            failed += 1
    assert failed <= 1
    await worker.start()
    await recorder.until(lambda: recorder.started_at.keys() >= set(ids))


# -- full ------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def alarm(broker):
    """The broker is short of memory."""
    await broker.control("set_vm_memory_high_watermark", "absolute", "1")
    try:
        yield
    finally:
        await broker.control("set_vm_memory_high_watermark", "0.4")


async def test_perf_8_a_broker_short_of_memory_refuses(struck_broker, struck, recorder):
    """At once, and it says that nothing is stored."""
    worker, performer, new = struck(), struck(), struck()
    worker.register("note", recorder.note)
    await worker.start()
    await performer.perform(Job("note"))
    errors, took = [], []
    async with alarm(struck_broker):
        for each in (performer, performer, performer, new, new):
            began = time.monotonic()
            with pytest.raises(BackendUnavailableError) as caught:
                await each.perform(Job("note"))
            took.append(round(time.monotonic() - began, 2))
            errors.append((caught.value.maybe_stored, str(caught.value)))
    await perform_until(performer, Job("note"))
    await perform_until(new, Job("note"))
    await recorder.until_started(3)
    # The first publish of a connection is what makes the broker say that it is blocked.
    assert [errors[n][0] for n in (1, 2, 4)] == [False] * 3, errors
    assert max(took) < 3, took


async def test_conn_1_memory_is_short_while_jobs_run_and_fall_due(
    struck_broker, struck, recorder, caplog
):
    """A job that can't be moved must not cost the others their connection, nor its own place.

    It is told once, and when it is over.
    """
    caplog.set_level(logging.DEBUG, "offload")
    worker, performer = struck(timeout="500ms"), struck()
    worker.register("note", recorder.note)
    worker.register("hold", recorder.hold)
    await worker.start()
    running = await performer.perform(Job("hold"))
    await recorder.until_started(1)
    due = await performer.perform_in(Job("note"), 4)
    async with alarm(struck_broker), asyncio.timeout(DEADLINE):
        while caplog.text.count("that are due can't be moved") < 4:
            await asyncio.sleep(0.05)
    await recorder.until(lambda: due in recorder.started_at)
    await perform_until(performer, Job("note"))
    await recorder.until_started(3)
    runs = [(job.id, job.attempt) for job in recorder.started]
    recorder.gate.set()
    assert runs[:2] == [(running, 1), (due, 1)]
    async with asyncio.timeout(DEADLINE):
        while "are moved again after" not in caplog.text:
            await asyncio.sleep(0.05)
    warnings = [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]
    assert sum("can't be moved" in each for each in warnings) == 1


# -- handlers that take long -------------------------------------------------------


@pytest.fixture(scope="module")
def impatient(run_broker):
    """A broker that leaves a job to a worker for half a second."""
    with run_broker() as broker:
        for name, value in {"consumer_timeout": 500, "channel_tick_interval": 100}.items():
            setting = f"application:set_env(rabbit, {name}, {value})."
            asyncio.run(broker.control("eval", setting))
        yield broker


async def test_a_job_that_takes_too_long_is_explained(impatient, make_at, recorder, caplog):
    """It runs again, the worker goes on, and the log says what to do."""
    worker = make_at(impatient.url)
    worker.register("hold", recorder.hold)
    await worker.start()
    await worker.perform(Job("hold"))
    await recorder.until_started(2)
    assert [job.attempt for job in recorder.started] == [1, 2]
    assert "consumer_timeout, and runs again" in caplog.text
    recorder.gate.set()


@pytest.mark.parametrize(("url", "timeout"), [("", 1800), ("?consumer_timeout=1h", 3600.0)])
def test_a_timeout_that_the_broker_does_not_leave_is_refused(url, timeout):
    worker = offload.connect(f"amqp://localhost{url}")
    with pytest.raises(ValueError, match=r"'slow': its timeout must be shorter than (30m|1h)"):
        worker.register("slow", print, timeout=timeout)
    worker.register("slow", print, timeout=timeout - 1)


async def test_classic_queues_are_said_to_be_weaker(make):
    worker = make(queue_type="classic")
    await worker.perform(Job("note"))
    assert worker.claims.notes["durable"].startswith("classic queues")
    assert "durable" not in make().claims.notes


# -- secrets, and who may not come in ----------------------------------------------


def shown_of(error):
    return "".join(traceback.format_exception(error))


async def test_conf_5_no_password_is_ever_shown(make, broker, wire, space, caplog, recorder):
    """Not in errors, their causes, logs of all levels, nor representations."""
    caplog.set_level(logging.DEBUG)
    broker.add_user("canary", CANARY)
    broker.permit("canary")
    good = wire.url.replace("//", f"//canary:{quote(CANARY, safe='')}@")
    bad = wire.url.replace("//", f"//canary:{quote(CANARY + '!', safe='')}@")
    shown = []
    worker, refused = make(good), make(bad)
    worker.register("note", recorder.note)
    await worker.start()
    await worker.perform(Job("note"))
    await recorder.until_started(1)
    for call in (refused.start, lambda: refused.perform(Job("note"))):
        with pytest.raises(BackendError, match="does not accept this user and password") as caught:
            await call()
        assert not isinstance(caught.value, BackendUnavailableError)
        shown.append(shown_of(caught.value))
    wire.refusing = True
    assert wire.reset()
    for each in (worker, make(good)):
        with pytest.raises(BackendUnavailableError) as caught:
            await each.perform(Job("note"))
        shown.append(shown_of(caught.value))
    with pytest.raises(BackendUnavailableError) as caught:
        await make(good).start()
    shown.append(shown_of(caught.value))
    wire.refusing = False
    await perform_until(worker, Job("note"))
    await recorder.until_started(2)
    shown += [repr(worker), repr(refused), str(vars(worker)), caplog.text]
    await worker.stop()
    assert "canary" in caplog.text
    for text in shown:
        for secret in (CANARY, quote(CANARY, safe=""), quote(CANARY), "S3cr"):
            assert secret not in text


async def test_conn_2_a_user_without_rights(make, broker):
    broker.add_user("poor", "poor")
    url = broker.url.replace("//", "//poor:poor@")
    with pytest.raises(BackendError, match="the user may not enter it"):
        await make(url).perform(Job("note"))


async def test_conn_2_a_user_whose_connections_are_used_up_is_told_so(make, broker):
    broker.add_user("few", "few")
    broker.permit("few")
    broker.ask("PUT", "user-limits/few/max-connections", {"value": 0})
    url = broker.url.replace("//", "//few:few@")
    with pytest.raises(BackendUnavailableError, match="connection limit"):
        await make(url).perform(Job("note"))


async def test_conn_2_several_hosts(make, broker, wire, recorder):
    """The first that answers is taken."""
    wire.refusing = True
    hosts = f"{urlsplit(wire.url).netloc},{urlsplit(broker.url).netloc}"
    worker = make(f"amqp://{hosts}")
    worker.register("note", recorder.note)
    await worker.start()
    await worker.perform(Job("note"))
    await recorder.until_started(1)


async def test_life_6_a_stop_under_load_repeats_nothing(make, recorder, drained):
    """Acknowledgements that are on their way when it stops arrive.

    An attempt may be charged: to what comes from a busy broker as it stops consuming.
    """
    performer = make()
    ids = await performer.perform_many([Job("note")] * 3000)
    for part in range(1, 6):
        worker = make(concurrency=100)
        worker.register("note", recorder.note)
        await worker.start()
        await recorder.until(lambda part=part: len(recorder.ended) >= 500 * part)
        await worker.stop()
    worker = make()
    worker.register("note", recorder.note)
    await worker.start()
    await recorder.until(lambda: set(recorder.ended) == set(ids))
    await drained(worker)
    assert sorted(job.id for job in recorder.started) == sorted(ids)
