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
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, NamedTuple

from offload.engine.forked_handler import end_child_of
from offload.engine.logs import engine_log, write
from offload.engine.pause import pause
from offload.job import running_job

WATCH_SECONDS = 1.0
"""How often is looked whether the threads that calls wait for are alive."""


class Outcome(NamedTuple):
    """How a call in a thread ended."""

    error: BaseException | None
    value: Any


@dataclass(slots=True, eq=False)
class _Call:
    """What a thread is to do: the one that takes it first."""

    future: asyncio.Future[Outcome]
    context: Context
    function: Callable[[Any], Any]
    argument: Any
    _takes: dict[str, tuple[threading.Thread]] = field(default_factory=dict)

    @property
    def taken_by(self) -> threading.Thread | None:
        """The thread that has taken it, if any."""
        take = self._takes.get("first")
        return take[0] if take is not None else None

    def take(self, thread: threading.Thread) -> bool:
        """Whether this is the first time that any thread takes it.

        One step of the interpreter, and of two takes by one thread only one is the first.
        """
        take = (thread,)
        return self._takes.setdefault("first", take) is take


class HandlerThreads:
    """Daemon threads, made as they are needed and used again. Called on the event loop only.

    An exception that is set on a thread from outside may strike between any two of its steps: as
    it takes a call, or before it tells how one ended. So the loop keeps every call until then,
    and sees in `_doing` which threads are still at theirs.
    """

    def __init__(self) -> None:
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._doing: dict[threading.Thread, _Call | None] = {}
        self._open: set[_Call] = set()
        self._is_closed = False
        self._is_short = False
        self._number = itertools.count(1)
        self._loop = asyncio.get_running_loop()
        self._watching: asyncio.TimerHandle | None = None

    def call(
        self, context: Context, function: Callable[[Any], Any], argument: Any
    ) -> asyncio.Future[Outcome]:
        """Run `function(argument)` in a thread. The future ends when it does, and never raises.

        There must be `room` for it.
        """
        call = _Call(self._loop.create_future(), context, function, argument)
        self._open.add(call)
        self._calls.put(call)
        if self._watching is None:
            self._watching = self._loop.call_later(WATCH_SECONDS, self._watch)
        return call.future

    async def room(self) -> None:
        """Wait until a thread is free for a call, or could be made for it."""
        failures = 0
        while len(self._threads) <= len(self._open):
            try:
                self._make_thread()
            except RuntimeError as error:  # the system has no more for this process
                failures += 1
                if not self._is_short:
                    write(engine_log.error, "jobs wait for threads to run in: %s", error)
                self._is_short = True
                await pause(failures)
            else:
                if self._is_short:
                    write(engine_log.warning, "there are threads for jobs again")
                self._is_short = False

    def close(self) -> None:
        """End every thread, and wait for the idle ones; a busy one ends after its handler."""
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None
        self._is_closed = True
        for _ in self._threads:
            self._calls.put(None)
        if not self._open:
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
        if not self._open:
            return
        alive = [thread for thread in self._threads if thread.is_alive()]
        if dead := len(self._threads) - len(alive):
            write(engine_log.error, "%d threads of handlers have died; they are replaced", dead)
            for thread in set(self._threads).difference(alive):
                self._doing.pop(thread, None)
            self._threads = alive
        with contextlib.suppress(RuntimeError):  # there will be room for one later
            while len(self._threads) < len(self._open):
                self._make_thread()
        self._look_for_lost()
        self._watching = self._loop.call_later(WATCH_SECONDS, self._watch)

    def _look_for_lost(self) -> None:
        """Find the calls that no thread is at any more."""
        for call in list(self._open):
            thread = call.taken_by
            if thread is None:
                if self._calls.empty():
                    self._calls.put(call)  # lost on its way; if it wasn't, no harm is done
            elif self._doing.get(thread) is not call:
                # Its outcome may be on its way; then it comes first.
                interrupted = RuntimeError("the thread of the handler was interrupted")
                self._loop.call_soon(self._ended, call, Outcome(interrupted, None))

    def _ended(self, call: _Call, outcome: Outcome) -> None:
        self._open.discard(call)
        if not call.future.done():
            call.future.set_result(outcome)

    # -- in the threads ------------------------------------------------------

    def _serve(self) -> None:
        thread = threading.current_thread()
        while not self._is_closed:
            try:
                self._doing[thread] = None
                if call := self._calls.get():
                    self._doing[thread] = call
                    if call.take(thread):
                        self._do(call)
                del call  # hold no args while idle
            except BaseException:
                with contextlib.suppress(RuntimeError):  # the loop was closed
                    self._loop.call_soon_threadsafe(self._look_for_lost)

    def _do(self, call: _Call) -> None:
        try:
            outcome = Outcome(None, call.context.run(call.function, call.argument))
        except BaseException as error:
            outcome = Outcome(error, None)
        end_child_of(call.context.get(running_job), outcome.error)
        with contextlib.suppress(RuntimeError):  # the loop was closed without waiting for it
            self._loop.call_soon_threadsafe(self._ended, call, outcome)
        del outcome  # no error in a frame of its own
