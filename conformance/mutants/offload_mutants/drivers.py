"""The embedded drivers with one thing that a variant may change: verdicts, fetches, handlers."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Sequence
from datetime import timedelta
from typing import Any

from offload import Args, Backoff, Delivery, Fetched, Handler, Settlement
from offload_mutants.wrapper import Wrapper
from offload_simple.driver import SimpleDriver
from offload_simple.subscription import SimpleSubscription
from offload_sqlite.driver import SqliteDriver
from offload_sqlite.subscription import SqliteSubscription


class Settles(SimpleDriver):
    """A driver that carries out other verdicts than it is given."""

    def change(self, settlement: Settlement) -> Settlement:
        return settlement

    async def subscribe(self, queues: Sequence[str]) -> SimpleSubscription:
        subscription = await super().subscribe(queues)
        settle = subscription.settle

        async def changed(settlements: Sequence[Settlement]) -> Collection[Delivery]:
            return await settle([self.change(each) for each in settlements])

        subscription.settle = changed  # type: ignore[method-assign]
        return subscription


class Handles(Wrapper):
    """A worker that calls every handler in another way."""

    def register(
        self,
        name: str,
        handler: Handler,
        *,
        max_attempts: int | None = None,
        backoff: Backoff | None = None,
        timeout: timedelta | float | None = None,
    ) -> None:
        if inspect.iscoroutinefunction(handler):
            handler = functools.partial(self.handle, handler)
        super().register(name, handler, max_attempts=max_attempts, backoff=backoff, timeout=timeout)

    async def handle(self, handler: Callable[[Args], Any], args: Args) -> None:
        await handler(args)


class SettlesSqlite(SqliteDriver):
    """As `Settles`, on SQLite."""

    def change(self, settlement: Settlement) -> Settlement:
        return settlement

    async def subscribe(self, queues: Sequence[str]) -> SqliteSubscription:
        subscription = await super().subscribe(queues)
        settle = subscription.settle

        async def changed(settlements: Sequence[Settlement]) -> Collection[Delivery]:
            return await settle([self.change(each) for each in settlements])

        subscription.settle = changed  # type: ignore[method-assign]
        return subscription


def fetches(
    subscription: SqliteSubscription, change: Callable[[Sequence[Delivery]], list[Delivery]]
) -> SqliteSubscription:
    """The subscription, with what it fetches changed."""
    take = subscription.fetch

    async def fetch(limit: int) -> Fetched:
        fetched = await take(limit)
        return Fetched(change(fetched.deliveries), fetched.next_due_ms)

    subscription.fetch = fetch  # type: ignore[method-assign]
    return subscription
