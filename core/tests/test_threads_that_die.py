"""Threads of handlers that the application kills are replaced, and no job waits for a dead one."""

from __future__ import annotations

import asyncio
import ctypes
import sys
import threading
from collections.abc import Iterator
from queue import SimpleQueue

import pytest

import offload
from offload import Job
from offload.engine import threads

DEADLINE = 20.0


async def run_jobs(count: int, handler, before_stop=lambda: None) -> list[int]:
    worker = offload.connect("simple://?concurrency=2&grace=1s")
    ran: list[int] = []
    all_ran = asyncio.Event()
    loop = asyncio.get_running_loop()

    def handle(args):
        handler(args)
        ran.append(args["n"])
        if len(set(ran)) == count:
            loop.call_soon_threadsafe(all_ran.set)

    worker.register("job", handle, backoff=offload.constant(0))
    await worker.start()
    await worker.perform_many([Job("job", {"n": n}) for n in range(count)])
    async with asyncio.timeout(DEADLINE):
        await all_ran.wait()
    before_stop()
    await worker.stop()
    return ran


async def test_threads_that_die_before_they_begin(monkeypatch):
    run = threading.Thread.run
    failures = iter([True, True])

    def dies(thread):
        if thread.name.startswith("offload-handler") and next(failures, False):
            return  # as if an instrumentation of threads had failed
        run(thread)

    monkeypatch.setattr(threading.Thread, "run", dies)
    assert sorted(await run_jobs(6, lambda args: None)) == list(range(6))


@pytest.fixture
def untraced() -> Iterator[None]:
    """No tracer: CPython 3.11 runs on the spot while one is set and an exception is under way."""
    tracers = sys.gettrace(), threading.gettrace()
    sys.settrace(None)
    threading.settrace(None)  # type: ignore[arg-type]
    yield
    sys.settrace(tracers[0])
    threading.settrace(tracers[1])  # type: ignore[arg-type]


def interrupt(thread: threading.Thread) -> None:
    if thread.is_alive():  # else its number may be another's by now
        ident = ctypes.c_ulong(thread.ident)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, ctypes.py_object(SystemExit))


class Interrupter:
    """Interrupts threads in which handlers ran, a little later.

    From one thread, for a handler that begins one while it is interrupted may wait for it for ever.
    """

    def __init__(self) -> None:
        self._threads: SimpleQueue[threading.Thread | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def soon(self, _: object) -> None:
        self._threads.put(threading.current_thread())

    def end(self) -> None:
        self._threads.put(None)
        self._thread.join()

    def _run(self) -> None:
        never = threading.Event()
        while (thread := self._threads.get()) is not None:
            never.wait(0.005)
            interrupt(thread)


async def test_exceptions_that_are_set_on_a_thread_after_its_handler(untraced):
    """The usual recipe to time a thread out, a moment too late."""
    interrupter = Interrupter()
    ran = await run_jobs(20, interrupter.soon, interrupter.end)
    assert set(ran) == set(range(20))


@pytest.mark.parametrize("where", ["taking a call", "telling its end"])
async def test_an_exception_that_strikes_between_two_steps_of_a_thread(monkeypatch, where):
    strikes, main = iter([True] * 4), threading.current_thread()

    class Queue(SimpleQueue):
        def get(self):
            call = super().get()
            if where == "taking a call" and call is not None and next(strikes, False):
                raise SystemExit
            return call

    class Outcome(threads.Outcome):
        def __new__(cls, *args):
            in_thread = threading.current_thread() is not main
            if where == "telling its end" and in_thread and next(strikes, False):
                raise SystemExit
            return super().__new__(cls, *args)

    monkeypatch.setattr(threads, "SimpleQueue", Queue)
    monkeypatch.setattr(threads, "Outcome", Outcome)
    assert set(await run_jobs(12, lambda args: None)) == set(range(12))
    assert next(strikes, None) is None
