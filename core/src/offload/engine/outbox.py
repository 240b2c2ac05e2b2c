"""Performs that happen together travel together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from offload.driver import Entry
from offload.engine.supervisor import own_task

MAX_BATCH = 1000
"""The most entries handed to a driver in one call."""


RESCUE_SECONDS = 1.0
"""After this time it is looked whether somebody sees to those who wait."""


class Outbox:
    """Sends entries in batches: what comes while one batch is on its way forms the next.

    A send that finds the outbox idle goes straight to the driver, undelayed.
    """

    def __init__(self, enqueue: Callable[[Sequence[Entry]], Awaitable[None]]) -> None:
        self._enqueue = enqueue
        self._sending = False
        self._waiting: list[tuple[Sequence[Entry], asyncio.Future[None]]] = []
        self._flusher: asyncio.Task[None] | None = None
        self._idle: asyncio.Future[None] | None = None
        self._rescue: asyncio.TimerHandle | None = None

    async def send(self, entries: Sequence[Entry]) -> None:
        """Hand at most `MAX_BATCH` entries to the driver; return when they are safe."""
        if self._sending or self._flusher is not None or self._waiting:
            loop = asyncio.get_running_loop()
            sent = loop.create_future()
            self._waiting.append((entries, sent))
            if self._rescue is None:
                self._rescue = loop.call_later(RESCUE_SECONDS, self._rescue_waiting)
            self._go_on()
            await sent
            return
        self._sending = True
        is_deep = False
        try:
            await self._enqueue(entries)
        except RecursionError:
            is_deep = True  # here not even a task can be made
            raise
        finally:
            self._sending = False
            if not is_deep:
                self._go_on()

    async def idle(self) -> None:
        """Return when nothing is on its way, or waits to be."""
        while self._sending or self._flusher is not None or self._waiting:
            self._go_on()
            if self._idle is None:
                self._idle = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._idle)

    def _rescue_waiting(self) -> None:
        """For those who waited for a sender that ended without a word."""
        self._rescue = None
        self._go_on()

    def _go_on(self) -> None:
        """See to those who wait, unless somebody does so already."""
        if self._sending or self._flusher is not None:
            return
        if self._waiting:
            self._flusher = own_task(self._flush(), "offload-outbox")
        elif self._idle is not None:
            self._idle.set_result(None)
            self._idle = None

    async def _flush(self) -> None:
        try:
            while self._waiting:
                entries, callers = self._next_batch()
                if not entries:
                    continue
                try:
                    await self._enqueue(entries)
                except BaseException as error:
                    for caller in callers:
                        if not caller.done():
                            caller.set_exception(error)
                    if not isinstance(error, Exception):
                        raise
                else:
                    for caller in callers:
                        if not caller.done():
                            caller.set_result(None)
        finally:
            self._flusher = None
            self._go_on()

    def _next_batch(self) -> tuple[list[Entry], list[asyncio.Future[None]]]:
        entries: list[Entry] = []
        callers: list[asyncio.Future[None]] = []
        taken = 0
        for wanted, caller in self._waiting:
            if entries and len(entries) + len(wanted) > MAX_BATCH:
                break
            taken += 1
            if not caller.done():  # a caller that was cancelled meanwhile wants nothing stored
                entries += wanted
                callers.append(caller)
        del self._waiting[:taken]
        return entries, callers
