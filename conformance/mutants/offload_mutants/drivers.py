"""The embedded drivers with one thing that a variant may change: verdicts, fetches, handlers."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Sequence
from typing import Any

from offload import Args, Delivery, Fetched, Settlement
from offload_mutants.wrapper import Wrapper
from offload_simple.driver import SimpleDriver
from offload_sqlite.driver import SqliteDriver
from offload_sqlite.subscription import SqliteSubscription


class ChangesVerdicts:
    """A mixin: a driver that carries out other verdicts than it is given."""

    def change(self, settlement: Settlement) -> Settlement:
        return settlement

    async def subscribe(self, queues: Sequence[str]) -> Any:
        subscription = await super().subscribe(queues)  # type: ignore[misc]
        settle = subscription.settle

        async def settle_changed(settlements: Sequence[Settlement]) -> Collection[Delivery]:
            changed = [self.change(each) for each in settlements]
            foreign: Collection[Delivery] = await settle(changed)
            return foreign

        subscription.settle = settle_changed
        return subscription


class Settles(ChangesVerdicts, SimpleDriver):
    """The one in memory, with other verdicts."""


class SettlesSqlite(ChangesVerdicts, SqliteDriver):
    """The one on SQLite, with other verdicts."""


class Handles(Wrapper):
    """A worker that calls every `async def` handler in another way."""

    def change_handler(self, name: str, handler: Any) -> Any:
        is_async = inspect.iscoroutinefunction(handler)
        return functools.partial(self.handle, handler) if is_async else handler

    async def handle(self, handler: Callable[[Args], Any], args: Args) -> None:
        await handler(args)


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
