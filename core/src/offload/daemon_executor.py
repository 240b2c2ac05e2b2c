"""An executor whose threads keep no program alive.

That of the standard library is waited for when its event loop closes, and once
more when the interpreter ends: one call of `asyncio.to_thread` that is stuck
would outlast every grace.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

MAX_THREADS = 32


class DaemonExecutor(ThreadPoolExecutor):
    """What a loop takes for its default executor; every thread is a daemon."""

    def __init__(self) -> None:
        super().__init__(1)  # it never makes a thread of its own
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._daemons = 0
        self._idle = 0
        self._counting = threading.Lock()

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Call it in a thread; at most `MAX_THREADS` calls are under way."""
        future: Future[T] = Future()
        self._calls.put((future, lambda: function(*args, **kwargs)))
        with self._counting:
            if self._idle:
                self._idle -= 1
            elif self._daemons < MAX_THREADS:
                name = f"offload-executor-{self._daemons + 1}"
                threading.Thread(target=self._serve, name=name, daemon=True).start()
                self._daemons += 1
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let each thread end after its call; nobody waits for it."""
        with self._counting:
            for _ in range(self._daemons):
                self._calls.put(None)

    def _serve(self) -> None:
        while (call := self._calls.get()) is not None:
            future, function = call
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function())
                except BaseException as error:
                    future.set_exception(error)
            del call, future, function
            with self._counting:
                self._idle += 1
