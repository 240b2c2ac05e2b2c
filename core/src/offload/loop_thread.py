"""An event loop in a thread, for calls from where there is none, or another."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import os
import threading
import weakref
from collections.abc import Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

from offload.errors import BackendUnavailableError
from offload.system_limits import limits_told

T = TypeVar("T")

log = logging.getLogger("offload")

LOOK_SECONDS = 0.1
"""How often a waiting caller checks that the loop still runs."""
LOOKS = 3
"""After this many checks that find it not running, the call is given up."""


class LoopThread:
    """A daemon thread that runs a loop until `end`."""

    def __init__(self, name: str) -> None:
        """
        Raises:
            BackendUnavailableError: the system gives no more threads, or files.
        """
        with limits_told():
            self.loop = asyncio.new_event_loop()
            self._over = threading.Event()
            work = (self.loop, self._over)
            self._thread = threading.Thread(target=_run, args=work, name=name, daemon=True)
            try:
                self._thread.start()
            except BaseException:
                self.loop.close()
                raise
        self._process = os.getpid()
        # Its owner may be collected without a stop; the thread holds no reference to it.
        weakref.finalize(self, _stop, *work).atexit = False

    @property
    def is_alive(self) -> bool:
        """Whether it runs in this process: a forked child has the loop, and no thread."""
        return self._process == os.getpid() and self._thread.is_alive()

    @property
    def is_current(self) -> bool:
        """Whether the caller runs in it."""
        return self._thread is threading.current_thread()

    def end(self) -> None:
        """End the thread, and close the loop."""
        _stop(self.loop, self._over)
        self._thread.join()


def _run(loop: asyncio.AbstractEventLoop, over: threading.Event) -> None:
    try:
        while not over.is_set():
            try:
                loop.run_forever()
            except (SystemExit, KeyboardInterrupt) as error:
                tell_of_exit(error)
    finally:
        loop.close()


def tell_of_exit(error: BaseException) -> None:
    """Log what ended a loop that goes on.

    asyncio ends the whole loop when any task of it raises one of these two. Most
    often such a task is one that a handler has made, and the jobs of all others
    would pay for it.
    """
    line = "a task of the application raised %r; it ends that task, and nothing else"
    log.error(line, error, exc_info=error)


def _stop(loop: asyncio.AbstractEventLoop, over: threading.Event) -> None:
    over.set()
    with contextlib.suppress(RuntimeError):  # it is closed
        loop.call_soon_threadsafe(loop.stop)


def run_in(call: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop) -> T:
    """Run a call on a loop that runs in another thread, and block until it has ended.

    Raises:
        BackendUnavailableError: the loop is closed, or ended before the call did.
    """
    future = _submit(call, loop)
    looks = 0
    try:
        while looks < LOOKS:
            try:
                return future.result(LOOK_SECONDS)
            except CancelledError:
                break
            except TimeoutError:
                if future.done():
                    raise
            looks = 0 if loop.is_running() else looks + 1
    finally:
        del future  # its error has this frame in its traceback, and that of the caller
        _close_unbegun(call)
    raise _ended(maybe_stored=True)


async def run_elsewhere(call: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop) -> T:
    """The same for a caller on another event loop, which is not blocked."""
    waiting = asyncio.wrap_future(_submit(call, loop))
    looks = 0
    while looks < LOOKS:
        done, _ = await asyncio.wait([waiting], timeout=LOOK_SECONDS)
        if done:
            if waiting.cancelled():
                break
            return waiting.result()
        looks = 0 if loop.is_running() else looks + 1
    _close_unbegun(call)
    raise _ended(maybe_stored=True)


def _submit(call: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop) -> Future[T]:
    try:
        return asyncio.run_coroutine_threadsafe(call, loop)
    except RuntimeError as error:
        call.close()
        if isinstance(error, RecursionError):
            raise  # of the caller, who has no room left for a call
        raise _ended(maybe_stored=False) from None


def _close_unbegun(call: Coroutine[Any, Any, Any]) -> None:
    """Its loop may have ended without ever beginning it."""
    if inspect.getcoroutinestate(call) == inspect.CORO_CREATED:
        call.close()


def _ended(*, maybe_stored: bool) -> BackendUnavailableError:
    return BackendUnavailableError(
        "the event loop of the worker ended before this call did", maybe_stored=maybe_stored
    )
