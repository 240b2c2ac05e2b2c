"""The event loops are the application's: performing works from each, and nothing hangs."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support import DEADLINE, Log

import offload
from offload import BackendUnavailableError, Job, State, UsageError

EACH = ["simple", "sqlite", "redis+fake"]


each = pytest.mark.parametrize("backend", EACH, indirect=True)


def open_files() -> set[str]:
    """What this process has open, but for what every event loop has."""
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.add(f"{link.name} {link.readlink()}")
    return found


@each
def test_threads_with_loops_of_their_own_perform_at_once(backend):
    """As async views under WSGI do: a loop for each request."""
    worker = offload.connect(backend)
    worker.register("note", print)
    with ThreadPoolExecutor(4) as threads:
        performs = [threads.submit(asyncio.run, worker.perform(Job("note"))) for _ in range(80)]
        ids = [perform.result(DEADLINE) for perform in performs]
    assert len(set(ids)) == 80
    assert worker.sync.counts()["default"].waiting == 80
    worker.sync.stop()


@each
async def test_a_thread_performs_while_the_worker_runs_here(backend, recorder):
    worker = offload.connect(backend)
    worker.register("note", recorder.note)
    await worker.start()

    def elsewhere() -> list[str]:
        return [asyncio.run(worker.perform(Job("note"))) for _ in range(20)]

    ids = await asyncio.to_thread(elsewhere)
    ids += await asyncio.to_thread(worker.sync.perform_many, [Job("note")] * 5)
    await recorder.until_started(25)
    assert {job.id for job in recorder.started} == set(ids)
    counts = await asyncio.to_thread(lambda: asyncio.run(worker.counts()))
    assert sum(each.dead for each in counts.values()) == 0
    letters = await asyncio.to_thread(lambda: asyncio.run(worker.dead_letters.list()))
    assert list(letters) == []
    await worker.stop()


@each
def test_hundreds_of_loops_one_after_the_other_leave_nothing_open(backend):
    worker = offload.connect(backend)
    worker.register("note", print)
    asyncio.run(worker.perform(Job("note")))
    gc.collect()
    gc.disable()
    try:
        before = len(open_files())
        for _ in range(300):
            asyncio.run(worker.perform(Job("note")))
        after = len(open_files())
    finally:
        gc.enable()
    assert after <= before + 3
    assert worker.sync.counts()["default"].waiting == 301
    worker.sync.stop()


# asyncio.run leaves tasks that were made while it cancelled all others; they are collected here.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("backend", ["simple", "sqlite"], indirect=True)
def test_sync_ends_with_an_error_when_the_loop_of_the_worker_does(backend):
    worker = offload.connect(backend)
    worker.register("note", print)
    ready = threading.Event()
    errors: list[BaseException] = []
    performed: list[str] = []

    def perform_on() -> None:
        ready.wait(DEADLINE)
        for _ in range(2000):
            try:
                performed.append(worker.sync.perform(Job("note")))
            except (BackendUnavailableError, offload.WorkerStoppedError) as error:
                errors.append(error)
                return

    async def short() -> None:
        await worker.start()
        ready.set()
        while len(performed) < 5:
            await asyncio.sleep(0.001)

    threads = [threading.Thread(target=perform_on) for _ in range(4)]
    for thread in threads:
        thread.start()
    asyncio.run(short())  # ends without a stop, and takes what is under way along
    for thread in threads:
        thread.join(DEADLINE)
    assert not any(thread.is_alive() for thread in threads)
    assert len(errors) == 4
    worker.sync.stop()
    gc.collect()


@each
def test_sync_beside_a_loop_that_does_not_run_just_now(backend):
    worker = offload.connect(backend)
    worker.register("note", print)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(worker.perform(Job("note")))
    worker.sync.perform(Job("note"))
    assert worker.sync.counts()["default"].waiting == 2
    worker.sync.stop()
    loop.close()


@each
def test_a_worker_that_runs_on_a_loop_that_stands_still_says_so(backend):
    worker = offload.connect(backend)
    worker.register("note", print)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(worker.start())
    with pytest.raises(UsageError, match="run that one again") as told:
        worker.sync.stop()
    assert "worker.sync" not in str(told.value)
    loop.run_until_complete(worker.stop())
    loop.close()


@each
def test_start_and_stop_from_another_loop_say_what_to_do(backend):
    worker = offload.connect(backend)

    async def here() -> None:
        await worker.start()

        def there() -> None:
            for call in (worker.start, worker.stop):
                with pytest.raises(UsageError, match=r"worker\.sync\.(start|stop)\(\)"):
                    asyncio.run(call())

        await asyncio.to_thread(there)
        await asyncio.to_thread(worker.sync.stop)
        assert worker.state is State.STOPPED

    asyncio.run(here())


@each
def test_run_outside_the_main_thread(backend):
    reports: list[offload.StopReport] = []
    worker = offload.connect(backend)
    done = asyncio.Event()

    @worker.handler("note")
    async def note(args):
        done.set()

    async def main() -> None:
        await worker.perform(Job("note"))
        await done.wait()

    thread = threading.Thread(target=lambda: reports.append(offload.run(worker, main)))
    thread.start()
    thread.join(DEADLINE)
    assert [report.lost for report in reports] == [()]


def test_run_gives_the_application_its_signal_handlers_back():
    def own(number, frame):
        raise AssertionError("never sent")

    former = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        for number in former:
            signal.signal(number, own)
        offload.run(offload.connect("simple://"), lambda: asyncio.sleep(0))
        assert [signal.getsignal(number) for number in former] == [own, own]
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def test_run_on_a_loop_without_signal_handlers(monkeypatch):
    def no(*_):
        raise NotImplementedError

    monkeypatch.setattr(asyncio.SelectorEventLoop, "add_signal_handler", no)
    monkeypatch.setattr(asyncio.SelectorEventLoop, "remove_signal_handler", no)
    former = signal.getsignal(signal.SIGTERM)
    worker = offload.connect("simple://")

    async def main() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.Event().wait()

    offload.run(worker, main)
    assert worker.state is State.STOPPED
    assert signal.getsignal(signal.SIGTERM) is former


def test_run_does_not_outlast_its_grace_for_a_thread_that_is_stuck():
    worker = offload.connect("simple://?grace=100ms")
    stuck, started = threading.Event(), threading.Event()

    @worker.handler("stuck")
    async def handler(args):
        started.set()
        await asyncio.to_thread(stuck.wait, 60)

    async def main() -> None:
        await worker.perform(Job("stuck"))
        while not started.is_set():
            await asyncio.sleep(0.001)

    began = time.monotonic()
    offload.run(worker, main)
    took = time.monotonic() - began
    stuck.set()
    assert took < 3  # LIFE-7: the grace and one second, with a margin for a busy host


async def test_a_stop_tells_how_much_it_waits_for(connect, url, recorder, caplog):
    worker = connect(url, grace="20s")
    worker.register("hold", recorder.hold)
    await worker.start()
    await worker.perform_many([Job("hold")] * 2)
    await recorder.until_started(2)
    stopping = asyncio.create_task(worker.stop())
    async with asyncio.timeout(DEADLINE):
        while "draining: 2 jobs, up to 20s" not in caplog.messages:
            await asyncio.sleep(0.001)
    recorder.gate.set()
    await stopping


async def test_a_worker_stopped_elsewhere_performs_no_more(connect, sqlite_url):
    worker = connect(sqlite_url)
    log = Log()
    worker.observe(log)
    await worker.start()
    await worker.stop()

    def there() -> None:
        with pytest.raises(offload.WorkerStoppedError):
            asyncio.run(worker.perform(Job("note")))

    await asyncio.to_thread(there)


# What tests before it have left is collected here.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@each
def test_a_worker_that_is_forgotten_keeps_no_thread(backend):
    def once() -> None:
        worker = offload.connect(backend)
        worker.register("note", print)
        worker.sync.perform(Job("note"))

    once()
    gc.collect()
    before = threading.active_count()
    for _ in range(10):
        once()
    gc.collect()
    deadline = time.monotonic() + DEADLINE
    while threading.active_count() > before:
        assert time.monotonic() < deadline
        time.sleep(0.001)


async def perform_deep(worker: offload.Worker, levels: int) -> None:
    if levels:
        await perform_deep(worker, levels - 1)
    else:
        await worker.perform(Job("note"))


# Where there is no room for a frame, asyncio leaves a coroutine that was never begun.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("backend", ["simple", "sqlite"], indirect=True)
def test_a_perform_deep_in_a_recursion_disturbs_no_other(backend):
    worker = offload.connect(backend)
    worker.register("note", print)

    async def main() -> None:
        async def one() -> None:
            for levels in range(880, 1000):
                with contextlib.suppress(RecursionError, BackendUnavailableError):
                    await perform_deep(worker, levels)

        async with asyncio.timeout(DEADLINE):
            await asyncio.gather(*(one() for _ in range(3)))
            with contextlib.suppress(BackendUnavailableError):
                await worker.perform(Job("note"))
            await worker.perform(Job("note"))
        await worker.stop()

    asyncio.run(main())
    gc.collect()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("backend", ["simple", "sqlite"], indirect=True)
@pytest.mark.parametrize("levels", range(940, 1000, 3))
def test_an_idle_worker_runs_what_is_performed_after_one_deep_in_a_recursion(backend, levels):
    worker = offload.connect(backend)

    async def main() -> None:
        ran = asyncio.Event()

        @worker.handler("note")
        async def note(args: offload.Args) -> None: ...

        @worker.handler("told")
        async def told(args: offload.Args) -> None:
            ran.set()

        await worker.start()
        await asyncio.create_task(worker.perform(Job("note")))
        with contextlib.suppress(RecursionError, BackendUnavailableError):
            await asyncio.create_task(perform_deep(worker, levels))
        async with asyncio.timeout(DEADLINE):
            with contextlib.suppress(BackendUnavailableError):
                await worker.perform(Job("told"))
            await worker.perform(Job("told"))
            await ran.wait()
        await worker.stop()

    asyncio.run(main())
    gc.collect()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("backend", ["simple", "sqlite"], indirect=True)
def test_a_sync_perform_deep_in_a_recursion_is_no_outage(backend):
    worker = offload.connect(backend)
    worker.register("note", print)

    def deep(levels: int) -> None:
        if levels:
            deep(levels - 1)
        else:
            worker.sync.perform(Job("note"))

    with worker.sync:
        for levels in range(850, 1000):
            with contextlib.suppress(RecursionError):
                deep(levels)
        worker.sync.perform(Job("note"))
