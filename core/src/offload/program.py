"""A worker in a plain program: run it until a signal comes, then drain."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import signal
import threading
import traceback
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from offload.daemon_executor import DaemonExecutor
from offload.errors import UsageError
from offload.loop_thread import tell_of_exit
from offload.worker import StopReport, Worker

SIGNALS = (signal.SIGTERM, signal.SIGINT)

Main = Callable[[], Awaitable[object]]


def run(worker: Worker, main: Main | None = None, *, worker_off: bool = False) -> StopReport:
    """Start the worker, run `main` (or wait) until it ends or a signal comes, and drain.

    SIGTERM and SIGINT cancel `main`, or a start that is still connecting, and
    start the drain; a second signal ends the process at once, as if it had not
    been caught. Afterwards the handlers of both are as they were. Outside the
    main thread no signal is listened to. With `worker_off` the worker only
    performs. What start or `main` raises is raised here, after the drain; so
    is SystemExit of it or of a signal handler. In a task it ends that task
    alone (FAIL-4).

    Raises:
        UsageError: `main` is not a function, or this thread runs an event loop already.
    """
    _check(main)
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        signalled = asyncio.Event()
        program = loop.create_task(_run(worker, main, worker_off, signalled))
        asked: BaseException | None = None
        with _listening(loop, signalled):
            while True:
                try:
                    report = loop.run_until_complete(program)
                except (SystemExit, KeyboardInterrupt) as error:
                    if program.done() and not program.cancelled() and program.exception() is error:
                        raise
                    if _is_of_a_signal_handler(error):
                        asked = error
                        signalled.set()
                    else:
                        tell_of_exit(error)
                else:
                    break
        if asked is not None:
            raise asked
        return report


def _is_of_a_signal_handler(error: BaseException) -> bool:
    """Whether a handler of the application's has raised this, and not a task or a callback."""
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    codes = {getattr(inspect.unwrap(each), "__code__", None) for each in handlers if callable(each)}
    return any(frame.f_code in codes for frame, _ in traceback.walk_tb(error.__traceback__))


def _check(main: Main | None) -> None:
    if inspect.iscoroutine(main):
        main.close()
        raise UsageError("main: the function is wanted, not what it returns: run(worker, main)")
    if main is not None and not callable(main):
        raise UsageError(f"main: {main!r} is not an async function without arguments")
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise UsageError(
        "offload.run makes an event loop, and this thread runs one already: "
        "use `async with worker` in it"
    )


async def _run(
    worker: Worker, main: Main | None, worker_off: bool, signalled: asyncio.Event
) -> StopReport:
    # What a handler left in a thread must not be waited for when the grace is over.
    asyncio.get_running_loop().set_default_executor(DaemonExecutor())
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


async def _unless(signalled: asyncio.Event, work: Main) -> None:
    """Do this work; cancel it when a signal comes, or has come."""
    if signalled.is_set():
        return
    signal_comes = asyncio.ensure_future(signalled.wait())
    working = asyncio.ensure_future(_contained(work))
    try:
        await asyncio.wait([signal_comes, working], return_when=asyncio.FIRST_COMPLETED)
        if signalled.is_set():
            working.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await working
        elif (exit_asked := await working) is not None:
            raise exit_asked
    finally:
        signal_comes.cancel()
        working.cancel()


async def _contained(work: Main) -> BaseException | None:
    """Do this work; return what, raised in a task, would end the loop before the drain."""
    try:
        waiting = work()
        if not inspect.isawaitable(waiting):
            raise UsageError(f"main: {work!r} returned {waiting!r}; it must be an async function")
        await waiting
    except (SystemExit, KeyboardInterrupt) as error:
        return error
    return None


@contextmanager
def _listening(loop: asyncio.AbstractEventLoop, signalled: asyncio.Event) -> Iterator[None]:
    """Set the event when a signal comes; a second one has its usual effect."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python tells signals to the main thread alone
        return

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
