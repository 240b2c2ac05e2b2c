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


class _Pages(NetSubscription):
    page: deque[Delivery]

    async def fetch(self, limit: int) -> Fetched:
        if not self.page:
            self.page.extend((await super().fetch(20)).deliveries)
        return Fetched([self.page.popleft() for _ in range(min(limit, len(self.page)))])


@mutant("LIFE-7", "LIFE-9", "LIFE-13", "FIFO-1", "FIFO-3", base="net")
class LeasesByThePage(NetDriver):
    """Leases twenty at a time, and at a stop forgets those that it hasn't handed out yet."""

    async def subscribe(self, queues: Sequence[str]) -> NetSubscription:
        subscription = _Pages(self, queues)
        subscription.page = deque()
        return subscription
