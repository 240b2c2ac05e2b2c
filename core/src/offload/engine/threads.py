"""Where `def` handlers run.

Not an executor of the standard library: its threads are waited for when the
interpreter exits, so one stuck handler would keep a stopped program alive.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextvars import Context
from queue import SimpleQueue
from typing import Any, NamedTuple


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
        self._idle = 0

    def call(
        self, context: Context, function: Callable[[Any], Any], argument: Any
    ) -> asyncio.Future[Outcome]:
        """Run `function(argument)` in a thread. The future ends when it does, and never raises.

        Raises:
            RuntimeError: there can be no more threads.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Outcome] = loop.create_future()
        if self._idle:
            self._idle -= 1
        else:
            name = f"offload-handler-{len(self._threads) + 1}"
            thread = threading.Thread(target=self._serve, name=name, daemon=True)
            thread.start()  # the system may have no thread left
            self._threads.append(thread)
        future.add_done_callback(self._freed)
        self._calls.put(_Call(loop, future, context, function, argument))
        return future

    def close(self) -> None:
        """End every thread, and wait for the idle ones; a busy one ends after its handler."""
        for _ in self._threads:
            self._calls.put(None)
        if self._idle == len(self._threads):
            for thread in self._threads:
                thread.join(1.0)
        self._threads = []
        self._idle = 0

    def _freed(self, _: asyncio.Future[Outcome]) -> None:
        self._idle += 1

    def _serve(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                outcome = Outcome(None, call.context.run(call.function, call.argument))
            except BaseException as error:
                outcome = Outcome(error, None)
            try:
                call.loop.call_soon_threadsafe(_resolve, call.future, outcome)
            except RuntimeError:
                return  # the loop was closed without waiting for this handler
            del call, outcome  # hold no args while idle


def _resolve(future: asyncio.Future[Outcome], outcome: Outcome) -> None:
    if not future.done():
        future.set_result(outcome)
