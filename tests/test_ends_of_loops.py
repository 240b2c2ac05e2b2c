"""What ends a loop, or a worker that nobody holds: other jobs pay for neither."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import threading
import weakref

import pytest
from lost_loops import check_that_a_closed_loop_holds_no_job, until, with_long_lease
from support import DEADLINE

import offload
from offload import Job, State, UsageError

EXITS = {
    "SystemExit": lambda: sys.exit(2),  # as argparse does, and click
    "KeyboardInterrupt": lambda: (_ for _ in ()).throw(KeyboardInterrupt),
}


each = pytest.mark.parametrize("backend", ["simple", "sqlite", "redis+fake"], indirect=True)
in_process = pytest.mark.parametrize("backend", ["simple", "sqlite"], indirect=True)


async def child(leave) -> None:
    leave()


async def gathered(leave) -> None:
    await asyncio.gather(child(leave))


async def grouped(leave) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(child(leave))


async def left_alone(leave) -> None:
    task = asyncio.create_task(child(leave))
    while not task.done():
        await asyncio.sleep(0)
    task.exception()


async def called_soon(leave) -> None:
    asyncio.get_running_loop().call_soon(leave)
    await asyncio.sleep(0.01)


def prepare(worker, way, leave) -> tuple[threading.Event, list[str]]:
    """Handlers: one that leaves, and two that are under way meanwhile, in a task and a thread."""
    left = threading.Event()
    ended: list[str] = []

    async def bad(args):
        try:
            await way(leave)
        finally:
            left.set()

    async def beside(args):
        while not left.is_set():
            await asyncio.sleep(0.001)
        ended.append("beside")

    def beside_in_a_thread(args):
        left.wait(DEADLINE)
        ended.append("thread")

    for handler in (bad, beside, beside_in_a_thread):
        worker.register(handler.__name__, handler, max_attempts=1)
    return left, ended


@in_process
@pytest.mark.parametrize("leave", EXITS.values(), ids=EXITS)
@pytest.mark.parametrize("way", [gathered, grouped, left_alone, called_soon])
def test_what_a_task_of_a_handler_raises_does_not_end_the_program(backend, way, leave, caplog):
    worker = offload.connect(backend)
    _, ended = prepare(worker, way, leave)

    async def main() -> None:
        for name in ("beside", "beside_in_a_thread", "bad"):
            await worker.perform(Job(name))
        async with asyncio.timeout(DEADLINE):
            while len(ended) < 2 or any(each.running for each in (await worker.counts()).values()):
                await asyncio.sleep(0.005)

    report = offload.run(worker, main)
    assert sorted(ended) == ["beside", "thread"]
    assert (report.returned, report.lost) == ((), ())
    lines = [record for record in caplog.records if "ends that task" in record.getMessage()]
    assert len(lines) == 1
    assert lines[0].exc_info


@each
def test_a_loop_of_worker_sync_goes_on_as_well(backend, caplog):
    worker = offload.connect(backend)
    _, ended = prepare(worker, left_alone, EXITS["SystemExit"])
    worker.sync.start()
    worker.sync.perform_many([Job("beside"), Job("beside_in_a_thread"), Job("bad")])
    until(lambda: len(ended) == 2)
    worker.sync.perform(Job("beside"))
    until(lambda: len(ended) == 3)
    assert worker.sync.stop().lost == ()


@in_process
@pytest.mark.parametrize("error", [SystemExit(9), KeyboardInterrupt()], ids=repr)
def test_main_may_leave_and_the_worker_is_drained_first(backend, error):
    worker = offload.connect(backend)
    begun = threading.Barrier(2)
    ended: list[str] = []

    @worker.handler("slow", max_attempts=1)
    def slow(args):
        begun.wait(DEADLINE)
        ended.append("slow")

    async def main() -> None:
        await worker.perform(Job("slow"))
        await asyncio.to_thread(begun.wait, DEADLINE)
        raise error

    with pytest.raises(type(error)) as raised:
        offload.run(worker, main)
    assert raised.value is error
    assert ended == ["slow"]
    assert worker.state is State.STOPPED
    assert worker.sync.counts() == {}


async def some() -> None:
    """A main that ends at once."""


def test_run_says_what_is_wrong_with_main():
    worker = offload.connect("simple://")
    for main in (some(), 5, lambda: 5):
        with pytest.raises(UsageError, match=r"^main: "):
            offload.run(worker, main)
        assert worker.state in (State.NEW, State.STOPPED)


async def test_run_says_that_a_loop_runs_already():
    with pytest.raises(UsageError, match="async with worker"):
        offload.run(offload.connect("simple://"), some)


# -- workers that nobody holds ----------------------------------------------------


def start_and_forget(backend: str, ran: list[int]) -> weakref.ref[offload.Worker]:
    worker = offload.connect(backend)
    worker.register("note", lambda args: ran.append(args["n"]))
    worker.sync.start()
    worker.sync.perform_many([Job("note", {"n": n}) for n in range(3)])
    worker.sync.perform_in(Job("note", {"n": 3}), 0.3)
    return weakref.ref(worker)


@each
def test_a_started_worker_goes_on_though_nothing_refers_to_it(backend):
    ran: list[int] = []
    forgotten = start_and_forget(backend, ran)
    gc.collect()
    until(lambda: sorted(ran) == [0, 1, 2, 3])
    forgotten().sync.stop()
    gc.collect()
    assert forgotten() is None


@each
async def test_a_worker_started_on_a_loop_goes_on_though_nothing_refers_to_it(backend):
    ran: list[int] = []

    async def begin() -> weakref.ref[offload.Worker]:
        worker = offload.connect(backend)
        worker.register("note", lambda args: ran.append(args["n"]))
        await worker.start()
        await worker.perform_in(Job("note", {"n": 0}), 0.1)
        return weakref.ref(worker)

    forgotten = await begin()
    gc.collect()
    async with asyncio.timeout(DEADLINE):
        while not ran:
            await asyncio.sleep(0.005)
    await forgotten().stop()
    gc.collect()
    assert forgotten() is None


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("backend", "is_wound_up"),
    # Not fakeredis: of a blocking pop whose task is cancelled before its first step it keeps a
    # callback on the closed loop, and every later write fails by it.
    [("sqlite", True), ("sqlite", False)],
    indirect=["backend"],
)
def test_a_loop_that_is_closed_without_a_stop_holds_no_job(backend, is_wound_up, caplog):
    check_that_a_closed_loop_holds_no_job(with_long_lease(backend), is_wound_up=is_wound_up)
    (line,) = (r for r in caplog.records if "closed without a stop" in r.getMessage())
    assert line.levelno == logging.WARNING


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_jobs_in_memory_are_named_when_their_loop_is_gone(caplog):
    worker = offload.connect("simple://")
    worker.register("note", print)

    async def begin() -> str:
        await worker.start()
        return await worker.perform_in(Job("note"), 3600)

    job_id = asyncio.run(begin())
    until(lambda: any(job_id in record.getMessage() for record in list(caplog.records)))
    assert worker.state is State.STOPPED


@in_process
def test_a_worker_collected_after_its_loop_ends_in_silence(backend, caplog, recwarn):
    """Its tasks see a GeneratorExit, while another loop runs or none."""

    def begin_and_close() -> weakref.ref[offload.Worker]:
        worker = offload.connect(backend)
        loop = asyncio.new_event_loop()
        loop.run_until_complete(worker.start())
        loop.run_until_complete(asyncio.sleep(0.01))
        loop.close()
        return weakref.ref(worker)

    forgotten = begin_and_close()

    async def collect() -> None:
        while forgotten() is not None:
            gc.collect()
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(collect(), DEADLINE))
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR and r.name != "asyncio"]


# -- threads ------------------------------------------------------------------------


@pytest.fixture
def no_threads(monkeypatch):
    """The system refuses threads until this is left; how often, it counts."""

    class Refusing:
        count = 0

        def over(self) -> None:
            monkeypatch.setattr(threading.Thread, "start", start)

    refusing, start = Refusing(), threading.Thread.start

    def refuse(thread):
        refusing.count += 1
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    return refusing


async def test_jobs_wait_for_threads_and_are_not_charged(no_threads, caplog):
    worker = offload.connect("simple://?grace=20s")
    attempts: list[int] = []

    def note(args):
        attempts.append(offload.current_job().attempt)

    worker.register("note", note, max_attempts=1, timeout=0.1)
    await worker.start()
    await worker.perform_many([Job("note")] * 5)
    async with asyncio.timeout(DEADLINE):
        while no_threads.count < 5 * 4:  # by then a timeout that had begun would be over
            await asyncio.sleep(0.005)
        assert (await worker.counts())["default"].running == 5
        no_threads.over()
        while len(attempts) < 5:
            await asyncio.sleep(0.005)
    await worker.stop()
    assert attempts == [1] * 5
    told = [r.getMessage() for r in caplog.records if "threads" in r.getMessage()]
    assert len(told) == 2, told


@each
def test_who_gets_no_thread_is_told_as_of_any_outage(backend, no_threads):
    worker = offload.connect(backend)
    for call in (worker.sync.start, worker.sync.counts):
        with pytest.raises(offload.BackendUnavailableError, match="the system gives"):
            call()
    no_threads.over()
    assert worker.sync.counts() == {}
    worker.sync.stop()


async def test_a_thread_whose_task_others_cancel_has_the_last_word():
    worker = offload.connect("simple://")
    go_on = threading.Event()
    attempts: list[int] = []

    @worker.handler("slow", max_attempts=3)
    def slow(args):
        attempts.append(offload.current_job().attempt)
        go_on.wait(DEADLINE)

    await worker.start()
    await worker.perform(Job("slow"))
    async with asyncio.timeout(DEADLINE):
        while not attempts:
            await asyncio.sleep(0.005)
        for task in asyncio.all_tasks():
            if task.get_name() == "offload-job":
                task.cancel()
        await asyncio.sleep(0.01)
        assert (await worker.counts())["default"].running == 1
        go_on.set()
        while await worker.counts():
            await asyncio.sleep(0.005)
    report = await worker.stop()
    assert attempts == [1]
    assert report.lost == ()


def test_an_observer_whose_hook_wants_what_there_is_not_is_refused():
    class Misspelt:
        @offload.hookimpl
        def job_started(self, jobb):
            raise AssertionError("never called")

    worker = offload.connect("simple://")
    observer = Misspelt()
    for _ in range(2):
        with pytest.raises(ValueError, match="jobb"):
            worker.observe(observer)
