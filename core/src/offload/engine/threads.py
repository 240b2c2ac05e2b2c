"""Where `def` handlers run.

Not an executor of the standard library: its threads are waited for when the
interpreter exits, so one stuck handler would keep a stopped program alive.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
from collections.abc import Callable
from contextvars import Context
from queue import SimpleQueue
from typing import Any, NamedTuple

from offload.engine.logs import engine_log, write

WATCH_SECONDS = 1.0
"""How often is looked whether the threads that calls wait for are alive."""


class Outcome(NamedTuple):
    """How a call in a thread ended."""

    error: BaseException | None
    value: Any


class _Call(NamedTuple):
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Outcome]
    context: Context
    function: Callable[[Any], Any]
    argument: Any


class HandlerThreads:
    """Daemon threads, made as they are needed and used again. Called on the event loop only."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._open_calls = 0
        self._number = itertools.count(1)
        self._loop = asyncio.get_running_loop()
        self._watching: asyncio.TimerHandle | None = None

    def call(
        self, context: Context, function: Callable[[Any], Any], argument: Any
    ) -> asyncio.Future[Outcome]:
        """Run `function(argument)` in a thread. The future ends when it does, and never raises.

        Raises:
            RuntimeError: there can be no more threads.
        """
        if len(self._threads) <= self._open_calls:
            self._make_thread()
        future: asyncio.Future[Outcome] = self._loop.create_future()
        self._open_calls += 1
        future.add_done_callback(self._freed)
        self._calls.put(_Call(self._loop, future, context, function, argument))
        if self._watching is None:
            self._watching = self._loop.call_later(WATCH_SECONDS, self._watch)
        return future

    def close(self) -> None:
        """End every thread, and wait for the idle ones; a busy one ends after its handler."""
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None
        for _ in self._threads:
            self._calls.put(None)
        if not self._open_calls:
            for thread in self._threads:
                thread.join(1.0)
        self._threads = []

    def _make_thread(self) -> None:
        name = f"offload-handler-{next(self._number)}"
        thread = threading.Thread(target=self._serve, name=name, daemon=True)
        thread.start()  # the system may have no thread left
        self._threads.append(thread)

    def _watch(self) -> None:
        """Replace the threads that the application has killed: else their calls wait for ever."""
        self._watching = None
        if not self._open_calls:
            return
        alive = [thread for thread in self._threads if thread.is_alive()]
        if dead := len(self._threads) - len(alive):
            write(engine_log.error, "%d threads of handlers have died; they are replaced", dead)
            self._threads = alive
        with contextlib.suppress(RuntimeError):  # there will be room for one later
            while len(self._threads) < self._open_calls:
                self._make_thread()
        self._watching = self._loop.call_later(WATCH_SECONDS, self._watch)

    def _freed(self, _: asyncio.Future[Outcome]) -> None:
        self._open_calls -= 1

    def _serve(self) -> None:
        goes_on = True
        while goes_on:
            # An exception that was set on this thread from outside may strike between two calls.
            with contextlib.suppress(BaseException):
                goes_on = self._serve_one()

    def _serve_one(self) -> bool:
        call = self._calls.get()
        if call is None:
            return False
        outcome = Outcome(RuntimeError("the thread of the handler was interrupted"), None)
        try:
            outcome = Outcome(None, call.context.run(call.function, call.argument))
        except BaseException as error:
            outcome = Outcome(error, None)
        finally:
            try:
                call.loop.call_soon_threadsafe(_resolve, call.future, outcome)
            except RuntimeError:
                pass  # the loop was closed without waiting for this handler
            finally:
                del call, outcome  # hold no args while idle, and no error in a frame of its own
        return True


def _resolve(future: asyncio.Future[Outcome], outcome: Outcome) -> None:
    if not future.done():
        future.set_result(outcome)
