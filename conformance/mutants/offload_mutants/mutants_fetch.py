"""LIFE-7: slips in what becomes of a fetch that is under way when a worker stops."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from offload import Delivery, Fetched
from offload_mutants.net_driver import NetDriver, NetSubscription
from offload_mutants.registry import mutant
from offload_mutants.sql_driver import SqlDriver, SqlSubscription


class _Ahead(SqlSubscription):
    ahead: asyncio.Task[Fetched] | None = None

    async def fetch(self, limit: int) -> Fetched:
        fetching, self.ahead = self.ahead, None
        fetched = await (fetching or self._fetch_now(limit))
        self.ahead = asyncio.create_task(self._fetch_now(limit))
        return fetched

    async def _fetch_now(self, limit: int) -> Fetched:
        return await super().fetch(limit)

    async def close(self) -> None:
        if self.ahead is not None:
            self.ahead.cancel()


@mutant("LIFE-7", "LIFE-9", "LIFE-13", base="sql")
class FetchesAheadInTheBackground(SqlDriver):
    """Has the next fetch under way while it hands out the last one, and cancels it to close."""

    async def subscribe(self, queues: Sequence[str]) -> SqlSubscription:
        self.subscription = _Ahead(self, queues)
        return self.subscription


class _Blocks(NetSubscription):
    taken: deque[Delivery]

    async def wait(self, timeout: float) -> None:
        while not self.taken:
            self.taken.extend((await super().fetch(1)).deliveries)

    async def fetch(self, limit: int) -> Fetched:
        if self.taken:
            return Fetched([self.taken.popleft()])
        return await super().fetch(limit)


@mutant("LIFE-7", "LIFE-9", base="net")
class TakesAJobWhileItWaits(NetDriver):
    """Waits with a blocking pop: a stop that cancels it doesn't hear what it has popped."""

    async def subscribe(self, queues: Sequence[str]) -> NetSubscription:
        subscription = _Blocks(self, queues)
        subscription.taken = deque()
        return subscription
