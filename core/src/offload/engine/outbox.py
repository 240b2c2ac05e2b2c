"""Performs that happen together travel together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

from offload.driver import Entry
from offload.engine.calls import NO_TASK, Calls
from offload.engine.supervisor import own_task
from offload.errors import (
    BackendError,
    BackendUnavailableError,
    OffloadError,
    WorkerStoppedError,
)

MAX_BATCH = 1000
"""The most entries handed to a driver in one call."""
MAX_BATCH_BYTES = 4 << 20
"""The most bytes of bodies in it, unless it is one entry alone.

A batch is in memory several times on its way, holds a backend up while it is stored, and must
arrive within the time that the driver gives a call: 4 MiB take 0.4 s at 100 Mbit/s. Batches of
1000 entries with bodies of up to 4 KiB are as large as before.
"""
RESCUE_SECONDS = 1.0
"""After this time it is looked whether somebody sees to those who wait."""


def batches(entries: Sequence[Entry]) -> Iterator[Sequence[Entry]]:
    """Split these, in order, into batches that a driver takes in one call."""
    for begin in range(0, len(entries), MAX_BATCH):
        batch = entries[begin : begin + MAX_BATCH]
        if size_of(batch) <= MAX_BATCH_BYTES:
            yield batch
        else:
            yield from _split(batch)


def _split(entries: Sequence[Entry]) -> Iterator[Sequence[Entry]]:
    begin, size = 0, 0
    for end, entry in enumerate(entries):
        if end > begin and size + len(entry.body) > MAX_BATCH_BYTES:
            yield entries[begin:end]
            begin, size = end, 0
        size += len(entry.body)
    yield entries[begin:]


def size_of(entries: Sequence[Entry]) -> int:
    """The bytes of their bodies."""
    return sum([len(entry.body) for entry in entries])


def told_how_many(error: Exception, stored: int, total: int) -> OffloadError:
    """What to raise instead of `error`, which came when `stored` jobs of a call were stored.

    A new one: other calls may share the first, of which nothing was stored.
    """
    kinds: tuple[type[OffloadError], ...] = (WorkerStoppedError, BackendUnavailableError)
    kind = next((kind for kind in kinds if isinstance(error, kind)), BackendError)
    told = kind(f"{error}; the first {stored} of {total} jobs are stored")
    told.maybe_stored = True
    return told


class Outbox:
    """Sends entries in batches: what comes while one batch is on its way forms the next.

    A send that finds the outbox idle goes straight to the driver, undelayed.
    """

    def __init__(self, enqueue: Callable[[Sequence[Entry]], Awaitable[None]], calls: Calls) -> None:
        self._enqueue = enqueue
        self._calls = calls
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sender: asyncio.Task[Any] | None = None
        """A task of the application that has the driver store its own entries."""
        self._waiting: list[tuple[Sequence[Entry], asyncio.Future[None]]] = []
        self._flusher: asyncio.Task[None] | None = None
        self._idle: asyncio.Future[None] | None = None
        self._rescue: asyncio.TimerHandle | None = None

    async def send(self, entries: Sequence[Entry]) -> None:
        """Hand one batch of entries to the driver; return when they are safe."""
        if self._sender is not None or self._flusher is not None or self._waiting:
            loop = asyncio.get_running_loop()
            sent = loop.create_future()
            self._waiting.append((entries, sent))
            if self._rescue is None:
                self._rescue = loop.call_later(RESCUE_SECONDS, self._rescue_waiting)
            self._go_on()
            await sent
            return
        # As `Calls.make` does, without what that would cost each perform.
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        self._sender = task = asyncio.current_task(self._loop)
        if task is None:
            raise RuntimeError(NO_TASK)
        asked_before = task.cancelling()
        is_deep = False
        try:
            await self._enqueue(entries)
        except RecursionError:
            is_deep = True  # here not even a task can be made
            raise
        except asyncio.CancelledError:
            self._calls.tell_if_interrupted(task, asked_before, maybe_stored=True)
            raise
        finally:
            self._sender = None
            if not is_deep:
                if self._calls.interrupted:
                    self._calls.forget(task)
                self._go_on()

    async def idle(self) -> None:
        """Return when nothing is on its way, or waits to be."""
        while self._sender is not None or self._flusher is not None or self._waiting:
            self._go_on()
            if self._idle is None:
                self._idle = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._idle)

    def give_up(self) -> None:
        """Cancel what is on its way, and send no more of what waits: the worker was stopped."""
        if self._sender is not None:
            self._calls.interrupt(self._sender)
        reason = "the worker was stopped before this was sent to the backend"
        self._refuse(len(self._waiting), WorkerStoppedError, reason)

    def _rescue_waiting(self) -> None:
        """For those who waited for a sender that ended without a word."""
        self._rescue = None
        self._go_on()

    def _go_on(self) -> None:
        """See to those who wait, unless somebody does so already."""
        if self._sender is not None or self._flusher is not None:
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
                passed_over = len(self._waiting)
                try:
                    await self._calls.make(self._enqueue, entries)
                except BaseException as error:
                    _tell(callers, error)
                    if isinstance(error, BackendUnavailableError):
                        self._refuse(passed_over, BackendUnavailableError, str(error))
                    elif not isinstance(error, Exception):
                        raise
                else:
                    _tell(callers, None)
        finally:
            self._flusher = None
            self._go_on()

    def _refuse(self, number: int, kind: type[OffloadError], reason: str) -> None:
        """Let those at the head of the line wait no longer: nothing of theirs was sent.

        Else an outage would let each of many batches wait for all before it (PERF-8).
        """
        for _, caller in self._waiting[:number]:
            _tell([caller], kind(reason))
        del self._waiting[:number]

    def _next_batch(self) -> tuple[list[Entry], list[asyncio.Future[None]]]:
        entries: list[Entry] = []
        callers: list[asyncio.Future[None]] = []
        taken, size = 0, 0
        for wanted, caller in self._waiting:
            if not caller.done():  # a caller that was cancelled meanwhile wants nothing stored
                added = size_of(wanted)
                too_many = len(entries) + len(wanted) > MAX_BATCH
                if entries and (too_many or size + added > MAX_BATCH_BYTES):
                    break
                entries += wanted
                size += added
                callers.append(caller)
            taken += 1
        del self._waiting[:taken]
        return entries, callers


def _tell(callers: Sequence[asyncio.Future[None]], error: BaseException | None) -> None:
    for caller in callers:
        if caller.done():
            continue  # it was cancelled meanwhile
        if error is None:
            caller.set_result(None)
        else:
            caller.set_exception(error)
