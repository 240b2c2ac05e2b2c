"""Performs that happen together travel together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from offload.driver import Entry
from offload.engine.supervisor import own_task

MAX_BATCH = 1000
"""The most entries handed to a driver in one call."""


class Outbox:
    """Sends entries in batches: what comes while one batch is on its way forms the next.

    A send that finds the outbox idle goes straight to the driver, undelayed.
    """

    def __init__(self, enqueue: Callable[[Sequence[Entry]], Awaitable[None]]) -> None:
        self._enqueue = enqueue
        self._busy = False
        self._waiting: list[tuple[Sequence[Entry], asyncio.Future[None]]] = []
        self._flusher: asyncio.Task[None] | None = None
        self._idle: asyncio.Future[None] | None = None

    async def send(self, entries: Sequence[Entry]) -> None:
        """Hand at most `MAX_BATCH` entries to the driver; return when they are safe."""
        if self._busy:
            sent = asyncio.get_running_loop().create_future()
            self._waiting.append((entries, sent))
            await sent
            return
        self._busy = True
        try:
            await self._enqueue(entries)
        finally:
            if self._waiting:
                self._flusher = own_task(self._flush(), "offload-outbox")
            else:
                self._rest()

    async def idle(self) -> None:
        """Return when nothing is on its way, or waits to be."""
        while self._busy:
            if self._idle is None:
                self._idle = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._idle)

    def _rest(self) -> None:
        self._busy = False
        if self._idle is not None:
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
            self._rest()

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
