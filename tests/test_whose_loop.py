"""Which event loop has a worker: the one that starts it, whatever was done with it before."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import subprocess
import sys
import threading

import pytest
from lost_loops import begin, make_slow, until, with_long_lease
from support import DEADLINE

import offload
from offload import Job, State, UsageError

each = pytest.mark.parametrize("backend", ["simple", "sqlite", "redis+fake"], indirect=True)
shared = pytest.mark.parametrize("backend", ["sqlite", "redis+fake"], indirect=True)


def make(backend: str) -> tuple[offload.Worker, list[object]]:
    worker, ran = offload.connect(backend), []
    worker.register("note", ran.append)
    return worker, ran


@each
def test_what_was_done_by_worker_sync_does_not_keep_a_program_from_starting(backend):
    worker, ran = make(backend)
    worker.sync.counts()
    worker.sync.perform(Job("note"))

    async def main() -> None:
        await worker.perform(Job("note"))
        async with asyncio.timeout(DEADLINE):
            while len(ran) < 2:
                await asyncio.sleep(0.005)

    assert offload.run(worker, main).lost == ()


@each
def test_a_worker_starts_while_other_loops_perform(backend):
    worker, ran = make(backend)
    stopping = threading.Event()
    performed: list[str] = []

    def perform_on() -> None:
        while not stopping.is_set():
            performed.append(asyncio.run(worker.perform(Job("note"))))

    async def main() -> None:
        async with asyncio.timeout(DEADLINE):
            while len(performed) < 60:
                await asyncio.sleep(0.005)
            stopping.set()
            await asyncio.gather(*(asyncio.to_thread(thread.join) for thread in threads))
            while len(ran) < len(performed):
                await asyncio.sleep(0.005)

    threads = [threading.Thread(target=perform_on) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        offload.run(worker, main)
    finally:
        stopping.set()
    assert len(ran) == len(performed)


@each
def test_worker_sync_starts_on_no_loop_that_only_performs(backend):
    """As that of a request, which ends soon."""
    worker, ran = make(backend)
    performed, may_end = threading.Event(), threading.Event()

    async def request() -> None:
        await worker.perform(Job("note"))
        performed.set()
        while not may_end.is_set():
            await asyncio.sleep(0.005)

    thread = threading.Thread(target=lambda: asyncio.run(request()))
    thread.start()
    performed.wait(DEADLINE)
    worker.sync.start()
    may_end.set()
    thread.join()
    worker.sync.perform(Job("note"))
    until(lambda: len(ran) == 2)
    assert worker.state is State.RUNNING
    worker.sync.stop()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@shared
def test_a_loop_that_ends_amid_a_drain_holds_no_job(backend, caplog):
    url = with_long_lease(backend)
    begun: list[str] = []

    async def stop_amid(worker: offload.Worker) -> None:
        await begin(worker, begun)
        stopping = asyncio.ensure_future(worker.stop())
        await asyncio.sleep(0.01)
        assert worker.state is State.STOPPING
        del stopping

    asyncio.run(stop_amid(make_slow(url, "first", begun)))
    second = make_slow(url, "second", begun)
    second.sync.start()
    until(lambda: "second" in begun)
    second.sync.stop()
    assert any("closed without a stop" in record.getMessage() for record in caplog.records)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_was_taken_on_a_loop_that_is_gone_runs_on_the_next():
    worker, ran = make("simple://")

    async def first() -> None:
        await worker.start()
        await worker.perform(Job("note"))

    async def second() -> None:
        async with worker, asyncio.timeout(DEADLINE):
            while not ran:
                await asyncio.sleep(0.005)

    asyncio.run(first())
    asyncio.run(second())
    assert ran


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@each
def test_the_end_of_a_loop_is_no_verdict(backend, caplog):
    worker = offload.connect(backend)
    begun = asyncio.Event()

    @worker.handler("slow", max_attempts=1)
    async def slow(args):
        begun.set()
        await asyncio.sleep(3600)

    async def main() -> None:
        await worker.start()
        await worker.perform(Job("slow"))
        await begun.wait()

    asyncio.run(main())
    until(lambda: worker.state is State.STOPPED)
    assert not [r for r in caplog.records if "dead letter" in r.getMessage()]


FORKS = {
    "sys.exit": ("sys.exit(7)", 7),
    "returns": ("pass", 0),
    "raises": ("raise ValueError('of the child')", 1),
}


@pytest.mark.parametrize("kind", ["async def", "def"])
@pytest.mark.parametrize("way", FORKS)
def test_the_child_of_a_handler_ends_with_it(tmp_path, kind, way):
    """Else it would go on as a second worker, on the first one's sockets and selector."""
    does, code = FORKS[way]
    (tmp_path / "program.py").write_text(
        f"""
import os, sys, time, offload
worker = offload.connect("sqlite:///{tmp_path}/jobs.db")
codes = []

@worker.handler("fork", max_attempts=1)
{kind} fork(args):
    child = os.fork()
    if child == 0:
        {does}
    else:
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

@worker.handler("note")
{kind} note(args):
    codes.append("note")

worker.sync.start()
for name in ("fork", "fork", "note"):
    worker.sync.perform(offload.Job(name))
ends = time.monotonic() + 20
while len(codes) < 3 and time.monotonic() < ends:
    time.sleep(0.01)
print(sorted(map(str, codes)), worker.sync.stop().lost, worker.sync.counts())
"""
    )
    done = subprocess.run(
        [sys.executable, "program.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == f"['{code}', '{code}', 'note'] () {{}}\n", done.stderr


@pytest.mark.parametrize("way", ["await asyncio.to_thread(print)", "pool.submit(print)"])
def test_who_wants_a_thread_at_the_end_of_the_interpreter_is_not_charged(tmp_path, way):
    (tmp_path / "program.py").write_text(
        f"""
import asyncio, threading, offload
from concurrent.futures import ThreadPoolExecutor
worker = offload.connect("sqlite:///jobs.db")
begun, pool = threading.Event(), ThreadPoolExecutor()

@worker.handler("slow", max_attempts=1)
async def slow(args):
    begun.set()
    while threading.main_thread().is_alive():
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    {way}

worker.sync.start()
worker.sync.perform(offload.Job("slow"))
begun.wait(20)
"""
    )
    subprocess.run([sys.executable, "program.py"], cwd=tmp_path, capture_output=True, check=True)
    worker = offload.connect(f"sqlite:///{tmp_path}/jobs.db")
    counts = worker.sync.counts().get("default", offload.QueueCounts())
    assert counts.dead == 0
    attempts: list[int] = []
    worker.register("slow", lambda args: attempts.append(offload.current_job().attempt))
    if counts.waiting:  # the thread was refused
        worker.sync.start()
        until(lambda: attempts)
        assert attempts == [1]
    worker.sync.stop()


def test_a_signal_handler_of_the_application_may_exit(tmp_path):
    (tmp_path / "program.py").write_text(
        """
import signal, sys, offload
signal.signal(signal.SIGHUP, lambda *_: sys.exit(9))
worker = offload.connect("simple://")
worker.register("note", print)

class Tell:
    @offload.hookimpl
    def worker_started(self):
        print("started", flush=True)

worker.observe(Tell())
offload.run(worker)
"""
    )
    with subprocess.Popen(
        [sys.executable, "program.py"], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        try:
            for _ in range(10):
                # What is raised amid a call of an observer, say, is taken for the observer's.
                process.send_signal(signal.SIGHUP)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(2)
                    break
        finally:
            process.kill()
        assert process.returncode == 9


def test_a_worker_goes_on_though_nobody_reads_what_it_says(tmp_path):
    (tmp_path / "app.py").write_text(
        """
import offload
worker = offload.connect("sqlite:///jobs.db")

@worker.handler("note")
def note(args):
    open("ran", "w").close()
"""
    )
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.Popen(
        [sys.executable, "-m", "offload", "worker", "app:worker"],
        cwd=tmp_path,
        stdout=writing,
        stderr=subprocess.DEVNULL,
    )
    os.close(writing)
    offload.connect(f"sqlite:///{tmp_path}/jobs.db").sync.perform(Job("note"))
    until(lambda: (tmp_path / "ran").exists())
    process.send_signal(signal.SIGTERM)
    assert process.wait(DEADLINE) == 0


@each
def test_an_error_of_worker_sync_keeps_nothing_alive(backend):
    worker, _ = make(backend)
    worker.sync.counts()
    alive = []

    class Big:
        def __del__(self):
            alive.remove(self.number)

    def view(number: int) -> None:
        big = Big()
        big.number = number
        alive.append(number)
        with pytest.raises(offload.InvalidJobError):
            worker.sync.perform(Job("note", {"x": object()}))

    gc.collect()
    gc.disable()
    try:
        for number in range(5):
            view(number)
        assert alive == []
    finally:
        gc.enable()
    worker.sync.stop()


@pytest.mark.parametrize("backend", ["simple", "sqlite"], indirect=True)
async def test_a_logging_handler_that_raises_costs_no_start_and_no_stop(backend):
    class Raising(logging.Handler):
        def emit(self, record):
            raise ValueError("no disk for logs")

    handler, log = Raising(), logging.getLogger("offload")
    former = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        worker, ran = make(backend)
        async with worker:
            await worker.perform(Job("note"))
            async with asyncio.timeout(DEADLINE):
                while not ran:
                    await asyncio.sleep(0.005)
        assert worker.state is State.STOPPED
    finally:
        log.removeHandler(handler)
        log.setLevel(former)


@each
async def test_looks_say_what_is_wrong_with_their_arguments(backend):
    worker, _ = make(backend)
    letters = worker.dead_letters
    calls = [
        letters.list(limit="5"),
        letters.list(limit=True),
        letters.list(after=5),
        letters.show(None),
        letters.requeue("abc"),
        letters.requeue([1]),
        letters.discard(None),
    ]
    for call in calls:
        with pytest.raises(UsageError):
            await call
    await worker.stop()


def test_a_working_directory_that_is_gone_is_told(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(offload.ConfigError, match="working directory is gone"):
        offload.connect("sqlite:///jobs.db")
    monkeypatch.chdir(tmp_path)


def test_a_lease_is_held_for_a_loop_that_stands_still_only_for_a_while(tmp_path, monkeypatch):
    """A loop that is neither closed nor ever run again."""
    monkeypatch.setattr("offload.engine.lease_keeper.LONGEST_REST_SECONDS", 0.2)
    url = f"sqlite:///{tmp_path}/jobs.db?lease=1s"
    begun: list[str] = []
    loop = asyncio.new_event_loop()
    first, second = make_slow(url, "first", begun), make_slow(url, "second", begun)
    loop.run_until_complete(begin(first, begun))
    second.sync.start()
    until(lambda: "second" in begun)
    second.sync.stop()
    loop.run_until_complete(first.stop())
    loop.close()
