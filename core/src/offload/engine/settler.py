"""Verdicts that are reached together are settled together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from typing import TypeAlias

from offload.driver import Delivery, Settlement, Subscription
from offload.engine.pause import pause
from offload.errors import BackendError
from offload.job import JobContext

Batch: TypeAlias = list[tuple[Settlement, JobContext]]

log = logging.getLogger("offload")
job_log = logging.getLogger("offload.job")


class Settler:
    """Settles verdicts in batches: what comes while one batch is on its way forms the next.

    While the backend is away it tries again and keeps what it holds; a job
    whose verdict never arrives runs again when its lease ends.
    """

    def __init__(
        self,
        subscription: Subscription,
        settled: Callable[[Batch, Collection[Delivery]], None],
    ) -> None:
        """`settled` is told what was settled, and which of it was no longer ours to settle."""
        self._subscription = subscription
        self._settled = settled
        self._pending: Batch = []
        self._in_flight: Batch = []
        self._pending_arrived = asyncio.Event()

    @property
    def unsettled(self) -> int:
        """How many verdicts the backend hasn't accepted yet."""
        return len(self._pending) + len(self._in_flight)

    def deliveries(self) -> list[Delivery]:
        """The deliveries behind them, whose leases must still be held."""
        return [settlement.delivery for settlement, _ in (*self._pending, *self._in_flight)]

    def add(self, settlement: Settlement, context: JobContext) -> None:
        """Settle this soon."""
        self._pending.append((settlement, context))
        if len(self._pending) == 1:
            self._pending_arrived.set()

    async def run(self) -> None:
        """Settle what comes, until cancelled."""
        while True:
            await self._pending_arrived.wait()
            self._pending_arrived.clear()
            self._in_flight, self._pending = self._pending, []
            await self._settle_surely(self._in_flight)

    async def _settle_surely(self, batch: Batch) -> None:
        failures = 0
        while True:
            try:
                foreign = await self._subscription.settle([settlement for settlement, _ in batch])
            except BackendError as error:
                log.warning("%d verdicts can't be settled yet: %s", len(batch), error)
                failures += 1
                await pause(failures)
            except Exception:
                if len(batch) == 1:
                    job_log.exception("job %s can't be settled; its lease ends it", batch[0][1].id)
                    self._forget(batch)
                    return
                # One verdict that the driver chokes on must not hold up the others.
                for single in batch:
                    await self._settle_surely([single])
                return
            else:
                self._forget(batch)
                self._settled(batch, foreign)
                return

    def _forget(self, batch: Batch) -> None:
        if batch is self._in_flight:
            self._in_flight = []
        else:
            self._in_flight.remove(batch[0])
