"""Performing and looking from event loops that don't have the worker.

A connection belongs to one event loop. So calls from any other one go to a
driver of their own, on a loop of its own in a thread, which stays: a web
application that makes a loop for each request connects but once.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from offload.driver import Driver, Entry
from offload.engine.connection import Connection
from offload.loop_thread import LoopThread, run_elsewhere

T = TypeVar("T")


class Elsewhere:
    """A driver on a loop of its own; it is made and opened when it is needed first."""

    def __init__(self, make: Callable[[], Driver], refuse_if_stopped: Callable[[], None]) -> None:
        self._make = make
        self._refuse_if_stopped = refuse_if_stopped
        self._lock = threading.Lock()
        self._at: tuple[LoopThread, Connection] | None = None

    @property
    def is_used(self) -> bool:
        """Whether there is something to close."""
        return self._at is not None

    async def enqueue(self, entries: Sequence[Entry]) -> None:
        """Store these; see `Driver.enqueue`."""
        thread, connection = self._begin(self._refuse_if_stopped)
        await run_elsewhere(self._send(connection, entries), thread.loop)

    async def use(self, action: Callable[[Any], Awaitable[T]]) -> T:
        """Let `action` work with the driver, on its loop."""
        thread, connection = self._begin()
        return await run_elsewhere(_use(connection, action), thread.loop)

    def _begin(self, check: Callable[[], None] = lambda: None) -> tuple[LoopThread, Connection]:
        with self._lock:
            check()  # within the lock: a stop that isn't seen here finds what is made
            if self._at is None:
                driver = self._make()
                self._at = LoopThread("offload-elsewhere"), Connection(driver)
            return self._at

    async def _send(self, connection: Connection, entries: Sequence[Entry]) -> None:
        await connection.share(self._refuse_if_stopped)
        self._refuse_if_stopped()
        await connection.outbox.send(entries)

    async def close(self, grace: float) -> None:
        """Disconnect, and end the thread; see `Connection.leave`."""
        with self._lock:
            at, self._at = self._at, None
        if at is None:
            return
        thread, connection = at
        try:
            await run_elsewhere(connection.leave(grace), thread.loop)
        finally:
            thread.end()


async def _use(connection: Connection, action: Callable[[Any], Awaitable[T]]) -> T:
    await connection.share()
    return await connection.use(action)
