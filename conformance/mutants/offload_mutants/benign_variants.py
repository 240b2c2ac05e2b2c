"""Adapters that are unusual and right: the kit must pass them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TypeVar

import msgspec

import offload_simple
from offload import (
    Delivery,
    Entry,
    Fetched,
    Job,
    QueueCounts,
    Settlement,
    StoredDeadLetter,
    UnsupportedError,
)
from offload.config import Config
from offload_mutants.registry import benign
from offload_mutants.wrapper import Wrapper
from offload_simple.driver import SimpleDriver
from offload_simple.memory import Memory, StoredJob
from offload_simple.subscription import SimpleSubscription
from offload_sqlite.driver import SqliteDriver
from offload_sqlite.subscription import SqliteSubscription

NO_ORDER = replace(offload_simple.ADAPTER.claims, fifo=False)


@benign("PERF", "TIME")
class SlowToAccept(SimpleDriver):
    """Takes two milliseconds for each batch, as a far server does."""

    async def enqueue(self, entries: Sequence[Entry]) -> None:
        await asyncio.sleep(0.002)
        await super().enqueue(entries)


@benign("PERF", "TIME")
class SlowToAnswer(Wrapper):
    """Answers a perform after the job may have run already."""

    async def perform(self, job: Job) -> str:
        job_id = await super().perform(job)
        await asyncio.sleep(0.002)
        return job_id

    async def perform_in(self, job: Job, delay: timedelta | float) -> str:
        job_id = await super().perform_in(job, delay)
        await asyncio.sleep(0.002)
        return job_id

    async def perform_at(self, job: Job, when: datetime) -> str:
        job_id = await super().perform_at(job, when)
        await asyncio.sleep(0.002)
        return job_id


class Consuming(SimpleDriver):
    """A driver with a subscription of its own kind."""

    kind: type[SimpleSubscription]

    async def subscribe(self, queues: Sequence[str]) -> SimpleSubscription:
        self._subscription = self.kind(self._memory, queues)
        return self._subscription


class _Slow(SimpleSubscription):
    async def fetch(self, limit: int) -> Fetched:
        await asyncio.sleep(0.001)
        return await super().fetch(limit)

    async def settle(self, settlements: Sequence[Settlement]) -> Collection[Delivery]:
        await asyncio.sleep(0.001)
        return await super().settle(settlements)


@benign("LIFE", "PERF", "CONC")
class SlowToFetchAndSettle(Consuming):
    """Takes a millisecond for each fetch, and for each verdict."""

    kind = _Slow


class _Polling(SimpleSubscription):
    async def fetch(self, limit: int) -> Fetched:
        return Fetched((await super().fetch(limit)).deliveries)

    async def wait(self, timeout: float) -> None:
        await asyncio.sleep(min(timeout, 0.005))


@benign("PERF", "TIME")
class Polls(Consuming):
    """Knows neither when something arrives nor when it is due, and looks every 5 ms."""

    kind = _Polling


class _Shuffling(SimpleSubscription):
    async def fetch(self, limit: int) -> Fetched:
        for ready in self._memory.ready.values():
            random.shuffle(ready)
        return await super().fetch(limit)


@benign("QUE", "FIFO", claims=NO_ORDER)
class KeepsNoOrder(Consuming):
    """Takes the jobs of a queue in any order, and claims none."""

    kind = _Shuffling


class _Stack(SimpleSubscription):
    async def fetch(self, limit: int) -> Fetched:
        memory = self._memory
        memory.promote()
        for queue in self._queues:
            memory.ready[queue].reverse()
        fetched = await super().fetch(limit)
        for queue in self._queues:
            memory.ready[queue].reverse()
        return fetched


@benign("QUE", "FIFO", claims=NO_ORDER)
class TakesTheLatestFirst(Consuming):
    """Each queue is a stack, and no order is claimed."""

    kind = _Stack


class _Late(Memory):
    def _push(self, job: StoredJob) -> None:
        job.due_ms += 1
        super()._push(job)


@benign("TIME")
class RoundsUpOnceMore(SimpleDriver):
    """Adds a millisecond to what is due later, to be on the safe side."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._memory = _Late()


class _InTicks(Memory):
    def _push(self, job: StoredJob) -> None:
        job.due_ms += -job.due_ms % 20
        super()._push(job)


@benign(
    "TIME",
    "FAIL",
    limits=replace(offload_simple.ADAPTER.limits, lateness=timedelta(milliseconds=60)),
    deviations={"TIME-10": "the scheduler counts ticks of 20 ms"},
)
class CountsInTicks(SimpleDriver):
    """Has a scheduler of ticks, so that a due time is rounded up to the next, and states it."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._memory = _InTicks()


@benign("PERF", "LIFE")
class CannotCount(Wrapper):
    """Has no way to count its jobs, and says so."""

    async def counts(self) -> Mapping[str, QueueCounts]:
        raise UnsupportedError("no counts here")


@benign("PERF", "DIST", base="sqlite")
class CountsOnlyWhatWaits(SqliteDriver):
    """Can't tell what is scheduled, nor what runs, and says so."""

    async def counts(self) -> Mapping[str, QueueCounts]:
        found = await super().counts()
        return {
            queue: QueueCounts(waiting=each.waiting, scheduled=None, running=None, dead=each.dead)
            for queue, each in found.items()
        }


@benign(
    "PERF",
    "TIME",
    "ARGS",
    limits=replace(offload_simple.ADAPTER.limits, max_job_bytes=10_000, max_delay=timedelta(1)),
)
class HasNarrowLimits(SimpleDriver):
    """Takes small jobs only, and for a day at most."""


@benign(
    "TIME",
    "FAIL",
    limits=replace(offload_simple.ADAPTER.limits, max_delay=timedelta(days=2_900_000)),
)
class ReachesToTheEndOfTime(SimpleDriver):
    """Takes jobs for almost as far as a datetime can tell."""


@benign("PERF", "FIFO", base="sqlite")
class StoresOneByOne(SqliteDriver):
    """Takes what comes together one by one, each in a transaction of its own."""

    async def enqueue(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            await super().enqueue([entry])


@benign("LIFE", base="sqlite")
class ConnectsTwice(SqliteDriver):
    """Opens its file, closes it, and opens it again, to see that it can."""

    async def open(self) -> None:
        await super().open()
        await super().close()
        await super().open()


class _Deaf(SqliteSubscription):
    async def wait(self, timeout: float) -> None:
        await super().wait(min(timeout, 0.005))

    async def fetch(self, limit: int) -> Fetched:
        return Fetched((await super().fetch(limit)).deliveries)


@benign("PERF", "TIME", "DIST", base="sqlite")
class HearsNoBell(SqliteDriver):
    """Looks into its file every 5 ms, and tells no time to wait for."""

    async def subscribe(self, queues: Sequence[str]) -> SqliteSubscription:
        right = await super().subscribe(queues)
        right.__class__ = _Deaf
        return right


class _Backwards(SimpleSubscription):
    async def fetch(self, limit: int) -> Fetched:
        fetched = await super().fetch(limit)
        return Fetched([_turned(d) for d in fetched.deliveries], fetched.next_due_ms)


T = TypeVar("T", Entry, Delivery, StoredDeadLetter)


def _turned(stored: T) -> T:
    return msgspec.structs.replace(stored, body=stored.body[::-1])


@benign("ARGS", "PERF")
class StoresOtherBytes(Consuming):
    """Writes what it stores backwards, and reads it so."""

    kind = _Backwards

    async def enqueue(self, entries: Sequence[Entry]) -> None:
        await super().enqueue([_turned(entry) for entry in entries])

    async def list_dead(self, limit: int, after: str | None) -> Sequence[StoredDeadLetter]:
        return [_turned(letter) for letter in await super().list_dead(limit, after)]

    async def show_dead(self, job_id: str) -> StoredDeadLetter | None:
        letter = await super().show_dead(job_id)
        return letter and _turned(letter)
