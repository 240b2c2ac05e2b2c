"""A driver in memory whose calls fail as a test says, and a worker made of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, ClassVar

import offload_simple
from offload import Delivery, Fetched, Settlement
from offload.config import parse_address, read_config
from offload.engine import DriverWorker
from offload_simple.driver import SimpleDriver
from offload_simple.subscription import SimpleSubscription

Fault = Callable[[], BaseException | None]


def never() -> None:
    """No fault."""


class FaultySubscription(SimpleSubscription):
    """Asks before and after each call whether it is to fail."""

    before_fetch: Fault = staticmethod(never)
    after_settle: Fault = staticmethod(never)
    before_settle: Callable[[Sequence[Settlement]], BaseException | None] = staticmethod(
        lambda settlements: None
    )
    settled: list[str]
    given_out: list[str]

    async def fetch(self, limit: int) -> Fetched:
        if error := self.before_fetch():
            raise error
        fetched = await super().fetch(limit)
        self.given_out += [delivery.id for delivery in fetched.deliveries]
        return fetched

    async def settle(self, settlements: Sequence[Settlement]) -> Collection[Delivery]:
        if error := self.before_settle(settlements):
            raise error
        foreign = await super().settle(settlements)
        self.settled += [settlement.delivery.id for settlement in settlements]
        if error := self.after_settle():
            raise error
        return foreign


class FaultyDriver(SimpleDriver):
    """Makes such a subscription."""

    async def subscribe(self, queues: Sequence[str]) -> FaultySubscription:
        self.subscription = self._subscription = FaultySubscription(self._memory, queues)
        self.subscription.settled, self.subscription.given_out = [], []
        for name, fault in self.faults.items():
            setattr(self.subscription, name, fault)
        return self.subscription

    faults: ClassVar[dict[str, Any]] = {}


def faulty_worker(query: str = "", **faults: Any) -> tuple[DriverWorker, FaultyDriver]:
    """A worker and its driver, which fails like this."""
    config = read_config(parse_address(f"simple://?{query}"), ())
    driver = FaultyDriver(config)
    driver.faults = faults  # type: ignore[misc]
    adapter = offload_simple.ADAPTER
    return DriverWorker(driver, config, adapter.claims, adapter.limits), driver
