"""Performing and looking from event loops that don't have the worker.

A connection belongs to one event loop. So calls from any other one go to a
driver of their own, on a loop of its own in a thread, which stays: a web
application that makes a loop for each request connects but once.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from offload.driver import Driver, Entry
from offload.engine.opening import Opening
from offload.engine.outbox import Outbox
from offload.loop_thread import LoopThread, run_elsewhere

T = TypeVar("T")


class Elsewhere:
    """A driver on a loop of its own; it is made and opened when it is needed first."""

    def __init__(self, make: Callable[[], Driver]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._thread: LoopThread | None = None
        self._driver: Driver | None = None
        self._outbox: Outbox | None = None
        self._turn: asyncio.Lock | None = None
        self._opening = Opening()

    async def enqueue(self, entries: Sequence[Entry]) -> None:
        """Store these; see `Driver.enqueue`."""

        async def send(driver: Driver) -> None:
            if self._outbox is None:
                self._outbox = Outbox(driver.enqueue)
            await self._outbox.send(entries)

        await self.use(send)

    async def use(self, action: Callable[[Driver], Awaitable[T]]) -> T:
        """Let `action` work with the driver, on its loop."""
        with self._lock:
            if self._thread is None:
                self._thread = LoopThread("offload-elsewhere")
                self._turn = asyncio.Lock()
            loop = self._thread.loop
        return await run_elsewhere(self._use(action), loop)

    async def _use(self, action: Callable[[Driver], Awaitable[T]]) -> T:
        if self._turn is None:
            raise AssertionError("made with the thread")
        failed_before = self._opening.failures
        async with self._turn:
            if self._driver is None:
                driver = self._make()
                await self._opening.open(driver, failed_before)
                self._driver = driver
        return await action(self._driver)

    async def close(self) -> None:
        """Disconnect, and end the thread."""
        with self._lock:
            thread, self._thread = self._thread, None
            driver, self._driver = self._driver, None
            self._outbox = None
        if thread is None:
            return
        try:
            if driver is not None:
                await run_elsewhere(_close(driver), thread.loop)
        finally:
            thread.end()


async def _close(driver: Driver) -> None:
    await driver.close()
