"""LIFE: start and stop."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import pytest
from support import DEADLINE, Log

from offload import (
    AlreadyRunningError,
    BackendUnavailableError,
    Job,
    State,
    StopReport,
    WorkerStoppedError,
    current_job,
)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_life_1_state_can_be_read(connect, url):
    worker = connect(url)
    assert worker.state is State.NEW
    await worker.start()
    assert worker.state is State.RUNNING
    await worker.stop()
    assert worker.state is State.STOPPED


async def test_life_3_start_while_running_changes_nothing(connect, url, recorder):
    worker = connect(url)
    worker.register("note", recorder.note)
    await worker.start()
    with pytest.raises(AlreadyRunningError):
        await worker.start()
    await worker.perform(Job("note"))
    await recorder.until_started(1)
    assert worker.state is State.RUNNING


async def test_life_3_two_starts_at_once_are_one(connect, url):
    worker = connect(url)
    results = await asyncio.gather(worker.start(), worker.start(), return_exceptions=True)
    assert [type(r) for r in results].count(AlreadyRunningError) == 1
    assert worker.state is State.RUNNING


async def test_life_4_start_with_the_backend_away(connect, tmp_path, recorder):
    folder = tmp_path / "later"
    worker = connect(f"sqlite:///{folder}/jobs.db")
    worker.register("note", recorder.note)
    with pytest.raises(BackendUnavailableError, match="folder must exist"):
        await worker.start()
    assert worker.state is State.NEW
    folder.mkdir()
    await worker.start()
    await worker.perform(Job("note"))
    await recorder.until_started(1)


async def test_life_5_perform_after_stop_was_called(connect, url, recorder):
    worker = connect(url)
    worker.register("hold", recorder.hold)
    await worker.start()
    await worker.perform(Job("hold"))
    await recorder.until_started(1)
    stopping = asyncio.create_task(worker.stop())
    await asyncio.sleep(0)
    for call in (
        worker.perform(Job("hold")),
        worker.perform_in(Job("hold"), 1),
        worker.perform_many([Job("hold")]),
    ):
        with pytest.raises(WorkerStoppedError):
            await call
    assert not stopping.done()
    recorder.gate.set()
    assert (await stopping).finished == 1
    with pytest.raises(WorkerStoppedError):
        await worker.perform(Job("hold"))
    assert await worker.counts() == {}


async def test_life_6_stop_waits_for_running_handlers_and_takes_no_more(connect, url, recorder):
    worker = connect(url, concurrency=2)
    worker.register("hold", recorder.hold)
    await worker.start()
    await worker.perform_many([Job("hold")] * 5)
    await recorder.until_started(2)
    stopping = asyncio.create_task(worker.stop())
    await asyncio.sleep(0)
    recorder.gate.set()
    report = await stopping
    assert len(recorder.ended) == 2
    assert report.finished == 2


@pytest.mark.parametrize("kind", ["async", "sync", "stubborn"])
async def test_life_7_the_grace_is_kept_whatever_handlers_do(connect, url, recorder, kind):
    worker = connect(url, grace="200ms")
    release = threading.Event()
    first_started = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def stubborn(args):
        first_started.set()
        while not release.is_set():
            try:
                await asyncio.sleep(0.05)
            except asyncio.CancelledError:
                continue

    def sync(args):
        loop.call_soon_threadsafe(first_started.set)
        release.wait(DEADLINE)

    async def plain(args):
        first_started.set()
        await asyncio.Event().wait()

    worker.register("stuck", {"async": plain, "sync": sync, "stubborn": stubborn}[kind])
    await worker.start()
    job_id = await worker.perform(Job("stuck"))
    await asyncio.wait_for(first_started.wait(), DEADLINE)
    began = time.monotonic()
    report = await worker.stop()
    took = time.monotonic() - began
    release.set()
    assert 0.2 <= took < 3
    if worker.claims.durable:
        assert report == StopReport(returned=(job_id,))
    else:
        assert report == StopReport(lost=(job_id,))


async def test_life_7_an_unfinished_job_runs_again_as_the_same_attempt(connect, url, recorder):
    worker = connect(url, grace="0s")
    worker.register("hold", recorder.hold)
    await worker.start()
    job_id = await worker.perform(Job("hold"))
    await recorder.until_started(1)
    await worker.stop()
    recorder.gate.set()
    await worker.start()
    await recorder.until_started(2)
    assert [(job.id, job.attempt) for job in recorder.started] == [(job_id, 1), (job_id, 1)]


async def test_life_8_every_stop_returns_after_the_one_drain(connect, url, recorder):
    worker = connect(url)
    assert await worker.stop() == StopReport()
    worker.register("hold", recorder.hold)
    await worker.start()
    await worker.perform(Job("hold"))
    await recorder.until_started(1)
    stops = [asyncio.create_task(worker.stop()) for _ in range(3)]
    await asyncio.sleep(0)
    assert not any(stop.done() for stop in stops)
    recorder.gate.set()
    reports = await asyncio.gather(*stops)
    assert [report.finished for report in reports] == [1, 1, 1]
    assert await worker.stop() == StopReport()


async def test_life_9_start_after_stop(connect, url, recorder):
    worker = connect(url)
    worker.register("note", recorder.note)
    await worker.start()
    await worker.perform_in(Job("note", {"which": "scheduled"}), 0.3)
    await worker.stop()
    await worker.start()
    await worker.perform(Job("note", {"which": "new"}))
    await recorder.until_started(2)
    assert [args["which"] for args in recorder.args] == ["new", "scheduled"]


async def test_life_10_nothing_is_left_after_stop(connect, url, tmp_path: Path, recorder):
    worker = connect(url)
    worker.register("note", recorder.note)
    worker.register("sync", lambda args: None)
    log = Log()
    worker.observe(log)
    # Once before, so that what Python itself opens for good is open.
    for _ in range(2):
        before = (asyncio.all_tasks(), set(threading.enumerate()), open_files())
        await worker.start()
        await worker.perform(Job("note"))
        await worker.perform(Job("sync"))
        await log.until("job_succeeded", 2)
        await worker.stop()
        log.events.clear()
        after = (asyncio.all_tasks(), set(threading.enumerate()), open_files())
    assert after == before
    assert {path.name for path in tmp_path.iterdir()} <= {"jobs.db"}


async def test_life_11_stop_inside_a_handler(connect, url):
    worker = connect(url)
    returned = asyncio.Event()

    @worker.handler("stop")
    async def stop(args):
        await worker.stop()
        returned.set()

    await worker.start()
    await worker.perform(Job("stop"))
    await asyncio.wait_for(returned.wait(), DEADLINE)
    await worker.stop()
    assert worker.state is State.STOPPED
    assert await worker.counts() == {}


async def test_life_12_a_cancelled_stop_goes_on(connect, url, recorder):
    worker = connect(url)
    worker.register("hold", recorder.hold)
    await worker.start()
    await worker.perform(Job("hold"))
    await recorder.until_started(1)
    stopping = asyncio.create_task(worker.stop())
    await asyncio.sleep(0)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert worker.state is State.STOPPING
    recorder.gate.set()
    assert (await worker.stop()).finished == 1
    assert worker.state is State.STOPPED


@pytest.mark.parametrize("turns", range(12))
async def test_life_12_a_cancelled_start_leaves_a_worker_that_can_start(
    connect, sqlite_url, recorder, turns
):
    worker = connect(sqlite_url)
    worker.register("note", recorder.note)
    starting = asyncio.create_task(worker.start())
    for _ in range(turns):
        await asyncio.sleep(0)
    starting.cancel()
    await asyncio.wait([starting])
    if worker.state is not State.RUNNING:
        assert worker.state is State.NEW
        await worker.start()
    await worker.perform(Job("note"))
    await recorder.until_started(1)


async def test_life_13_every_lost_job_is_named(connect, recorder, caplog):
    worker = connect("simple://", concurrency=1, grace="0s")
    worker.register("hold", recorder.hold)
    await worker.start()
    running = await worker.perform(Job("hold"))
    await recorder.until_started(1)
    waiting = await worker.perform(Job("hold"))
    scheduled = await worker.perform_in(Job("hold"), 60)
    report = await worker.stop()
    assert set(report.lost) == {running, waiting, scheduled}
    for job_id in report.lost:
        assert any(
            job_id in record.getMessage() and record.levelname == "WARNING"
            for record in caplog.records
        )


async def test_a_stop_burns_no_attempt_of_a_handler_that_could_not_perform(connect, url, recorder):
    worker = connect(url)

    async def chain(args):
        await recorder.hold(args)
        if len(recorder.started) == 1:
            await worker.perform(Job("note"))

    worker.register("chain", chain)
    worker.register("note", recorder.note)
    await worker.start()
    await worker.perform(Job("chain"))
    await recorder.until_started(1)
    stopping = asyncio.create_task(worker.stop())
    await asyncio.sleep(0)
    recorder.gate.set()
    await stopping
    await worker.start()
    await recorder.until_started(2)
    assert [job.attempt for job in recorder.started] == [1, 1]


def test_a_worker_outlives_its_loop(connect_anywhere, url):
    """asyncio.run twice, without a stop in the first: the second starts anew."""
    worker = connect_anywhere(url)
    ids = []

    @worker.handler("note")
    async def note(args):
        ids.append(current_job().id)

    async def first():
        await worker.start()
        return await worker.perform_in(Job("note"), 0.05)

    async def second(log):
        worker.observe(log)
        await worker.start()
        await log.until("job_succeeded")
        await worker.stop()

    job_id = asyncio.run(first())
    asyncio.run(second(Log()))
    assert ids == [job_id]


@pytest.fixture
def connect_anywhere():
    import offload

    return offload.connect
