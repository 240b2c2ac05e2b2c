"""Adapters that fail, retry, bury and recover in unusual and right ways: the kit must pass them."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import msgspec

import offload_simple
import offload_sqlite
from offload import Delivery, Fetched, Settlement, UnsupportedError, Verdict
from offload_mutants.drivers import Settles, fetches
from offload_mutants.registry import benign
from offload_mutants.wrapper import Wrapper
from offload_simple.driver import SimpleDriver
from offload_simple.subscription import SimpleSubscription
from offload_sqlite.driver import SqliteDriver
from offload_sqlite.subscription import SqliteSubscription

SIMPLE, SQLITE = offload_simple.ADAPTER.claims, offload_sqlite.ADAPTER.claims


@benign("FAIL", "TIME")
class RetriesABitLate(Settles):
    """Rounds every wait up, as one who looks every 20 ms."""

    def change(self, settlement: Settlement) -> Settlement:
        if settlement.verdict is not Verdict.RETRY:
            return settlement
        return msgspec.structs.replace(settlement, delay_ms=-(-settlement.delay_ms // 20) * 20)


@benign("FAIL", "DEAD")
class KeepsShortErrors(Settles):
    """Cuts what it keeps of an error to what fits a small column."""

    def change(self, settlement: Settlement) -> Settlement:
        if (failure := settlement.failure) is None:
            return settlement
        traceback = failure.traceback
        if len(traceback) > 600:
            traceback = f"{traceback[:250]}\n…\n{traceback[-300:]}"
        failure = msgspec.structs.replace(failure, error=failure.error[:200], traceback=traceback)
        return msgspec.structs.replace(settlement, failure=failure)


@benign("LIFE", "CONC", "FAIL", base="sqlite")
class SettlesSlowlyOneByOne(SqliteDriver):
    """Takes a round trip for each verdict, as a far server does."""

    async def subscribe(self, queues: Sequence[str]) -> SqliteSubscription:
        subscription = await super().subscribe(queues)
        settle = subscription.settle

        async def slowly(settlements: Sequence[Settlement]) -> Collection[Delivery]:
            foreign: list[Delivery] = []
            for each in settlements:
                await asyncio.sleep(0.0005)
                foreign += await settle([each])
            return foreign

        subscription.settle = slowly  # type: ignore[method-assign]
        return subscription


@benign("FAIL", "DEAD", claims=replace(SIMPLE, dead_letters=False))
class GivesNoAccessToTheDead(SimpleDriver):
    """Keeps dead letters where only its own tools can see them."""


@benign("CONF", "LIFE", "PERF")
class HasNoObserversAndNoCounts(Wrapper):
    """A worker with what the contract asks for, and no more."""

    def observe(self, observer: object) -> None:
        raise UnsupportedError("no observers here")

    async def counts(self) -> Any:
        raise UnsupportedError("no counts here")


@benign("DUR", "DIST", base="sqlite", claims=replace(SQLITE, distributed=False))
class IsForOneProcess(SqliteDriver):
    """Is durable, and has one process at a time."""


@benign("DUR", base="sqlite")
class NoticesADeathLate(SqliteDriver):
    """Looks for dead workers every three seconds, within what it claims."""

    async def open(self) -> None:
        await super().open()
        sessions = self._store.sessions
        reap = sessions.reap_now_and_then

        def reap_seldom(own_session: int) -> None:
            if time.monotonic() >= sessions._next_reaping:
                reap(own_session)
                sessions._next_reaping = time.monotonic() + 3

        sessions.reap_now_and_then = reap_seldom  # type: ignore[method-assign]


@benign("QUE", "TIME", "FIFO", claims=replace(SIMPLE, fifo=False))
class StartsInAnyOrder(SimpleDriver):
    """Claims no order, and has none."""

    async def subscribe(self, queues: Sequence[str]) -> SimpleSubscription:
        subscription = await super().subscribe(queues)
        fetch = subscription.fetch

        async def fetch_any(limit: int) -> Fetched:
            for ready in self._memory.ready.values():
                random.shuffle(ready)
            return await fetch(limit)

        subscription.fetch = fetch_any  # type: ignore[method-assign]
        return subscription


@benign("QUE", "DIST", "FIFO", base="sqlite", claims=replace(SQLITE, fifo=False))
class LeasesInAnyOrder(SqliteDriver):
    """The same, on SQLite."""

    async def subscribe(self, queues: Sequence[str]) -> SqliteSubscription:
        def shuffled(deliveries: Sequence[Delivery]) -> list[Delivery]:
            return random.sample(list(deliveries), len(deliveries))

        return fetches(await super().subscribe(queues), shuffled)


@benign("PERF", "CONC", "FIFO", base="sqlite")
class HandsOutOneAtATime(SqliteDriver):
    """Leases a single job at each fetch, however many are asked for."""

    async def subscribe(self, queues: Sequence[str]) -> SqliteSubscription:
        subscription = await super().subscribe(queues)
        fetch = subscription.fetch

        async def fetch_one(limit: int) -> Fetched:
            return await fetch(min(limit, 1))

        subscription.fetch = fetch_one  # type: ignore[method-assign]
        return subscription
