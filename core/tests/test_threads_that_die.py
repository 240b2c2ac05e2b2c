"""Threads of handlers that the application kills are replaced, and no job waits for a dead one."""

from __future__ import annotations

import asyncio
import ctypes
import threading

import offload
from offload import Job

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


async def test_exceptions_that_are_set_on_a_thread_after_its_handler():
    """The usual recipe to time a thread out, a moment too late."""

    timers: list[threading.Timer] = []

    def late(args):
        ident = ctypes.c_ulong(threading.get_ident())
        kill = ctypes.pythonapi.PyThreadState_SetAsyncExc
        timers.append(threading.Timer(0.01, kill, (ident, ctypes.py_object(SystemExit))))
        timers[-1].start()

    def join() -> None:  # while the threads are there: their numbers go to others then
        for timer in timers:
            timer.join()

    assert set(await run_jobs(10, late, join)) == set(range(10))
