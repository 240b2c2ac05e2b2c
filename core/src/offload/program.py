"""A worker in a plain program: run it until a signal comes, then drain."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from offload.daemon_executor import DaemonExecutor
from offload.worker import StopReport, Worker

SIGNALS = (signal.SIGTERM, signal.SIGINT)


def run(
    worker: Worker,
    main: Callable[[], Awaitable[object]] | None = None,
    *,
    worker_off: bool = False,
) -> StopReport:
    """Start the worker, run `main` (or wait) until it ends or a signal comes, and drain.

    SIGTERM and SIGINT cancel `main`, or a start that is still connecting, and
    start the drain; a second signal ends the process at once, as if it had not
    been caught. Afterwards the handlers of both are as they were. Outside the
    main thread no signal is listened to. With `worker_off` the worker only
    performs. What start or `main` raises is raised here.
    """
    return asyncio.run(_run(worker, main, worker_off))


async def _run(
    worker: Worker, main: Callable[[], Awaitable[object]] | None, worker_off: bool
) -> StopReport:
    # What a handler left in a thread must not be waited for when the grace is over.
    asyncio.get_running_loop().set_default_executor(DaemonExecutor())
    signalled = asyncio.Event()
    with _listening(signalled):
        try:
            if not worker_off:
                await _unless(signalled, worker.start)
            if main is None:
                await signalled.wait()
            else:
                await _unless(signalled, main)
        finally:
            report = await worker.stop()
    return report


async def _unless(signalled: asyncio.Event, work: Callable[[], Awaitable[object]]) -> None:
    """Do this work; cancel it when a signal comes, or has come."""
    if signalled.is_set():
        return
    signal_comes = asyncio.ensure_future(signalled.wait())
    working = asyncio.ensure_future(work())
    try:
        await asyncio.wait([signal_comes, working], return_when=asyncio.FIRST_COMPLETED)
        if signalled.is_set():
            working.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await working
        else:
            await working
    finally:
        signal_comes.cancel()
        working.cancel()


@contextmanager
def _listening(signalled: asyncio.Event) -> Iterator[None]:
    """Set the event when a signal comes; a second one has its usual effect."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python tells signals to the main thread alone
        return
    loop = asyncio.get_running_loop()

    def on_signal(number: int) -> None:
        if signalled.is_set():
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        signalled.set()

    def from_outside(number: int, _: FrameType | None) -> None:
        loop.call_soon_threadsafe(on_signal, number)

    former: dict[int, Any] = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        try:
            loop.add_signal_handler(number, on_signal, number)
        except (NotImplementedError, RuntimeError, ValueError):  # Windows, and some other loops
            signal.signal(number, from_outside)
    try:
        yield
    finally:
        for number in SIGNALS:
            with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
                loop.remove_signal_handler(number)
            if former[number] is not None:  # one that was set outside of Python can't be told
                signal.signal(number, former[number])
