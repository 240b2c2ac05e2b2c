"""Verdicts that are reached together are settled together."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection
from typing import TypeAlias

import msgspec

from offload.driver import Delivery, Failure, Settlement, Subscription
from offload.engine.logs import job_log, shown, write
from offload.engine.outage import Outage
from offload.engine.pause import pause
from offload.engine.supervisor import is_cancelled
from offload.errors import BackendUnavailableError
from offload.job import JobContext

Item: TypeAlias = tuple[Settlement, JobContext]
Batch: TypeAlias = list[Item]

TRIES = 3
"""How often a batch fails as unavailable before it makes room for others."""
ASIDE_SECONDS = 1.0
"""How long it is set aside then."""
HOPELESS_SECONDS = 30.0
"""After this time a verdict is tried again that the backend refuses, whatever comes with it."""
SHORT_CHARS = 200
"""Of an error, if that is what the backend can't hold."""
WHAT = "verdicts can't be settled"


class Settler:
    """Settles verdicts in batches: what comes while one batch is on its way forms the next.

    While the backend is unavailable it tries again and keeps what it holds. A
    verdict that the backend can't take is isolated, and holds up no other.
    """

    def __init__(
        self,
        subscription: Subscription,
        settled: Callable[[Batch, Collection[Delivery]], None],
        outage: Outage,
    ) -> None:
        """`settled` is told what was settled, and which of it was no longer ours to settle."""
        self._subscription = subscription
        self._settled = settled
        self._outage = outage
        self._pending: Batch = []
        self._in_flight: Batch = []
        self._aside: Batch = []
        self._hopeless: Batch = []
        self._arrived = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._timers: dict[float, asyncio.TimerHandle] = {}

    @property
    def unsettled(self) -> int:
        """How many verdicts the backend hasn't accepted yet, but for those that it refuses."""
        return len(self._pending) + len(self._in_flight) + len(self._aside)

    def deliveries(self) -> list[Delivery]:
        """The deliveries behind all verdicts that aren't settled, whose leases must still be held.

        Called from the thread of the lease keeper, too: each list is copied at once.
        """
        lists = (self._pending, self._in_flight, self._aside, self._hopeless)
        return [settlement.delivery for items in lists for settlement, _ in list(items)]

    def add(self, settlement: Settlement, context: JobContext) -> None:
        """Settle this soon."""
        self._pending.append((settlement, context))
        if len(self._pending) == 1:
            self._arrived.set()

    def close(self) -> None:
        """Try no more."""
        for timer in self._timers.values():
            timer.cancel()

    async def run(self) -> None:
        """Settle what comes, until cancelled."""
        self._pending[:0] = self._in_flight  # of a life before, which ended with an error
        self._in_flight = []
        while True:
            if not self._pending:
                self._arrived.clear()
                await self._arrived.wait()
            self._in_flight, self._pending = self._pending, []
            await self._settle_in_flight()

    async def _settle_in_flight(self) -> None:
        for failures in range(1, TRIES + 1):
            error = await self._try(self._in_flight)
            if error is None:
                return
            if not isinstance(error, BackendUnavailableError):
                await self._isolate(self._in_flight)
                return
            self._outage.fails(WHAT, error)
            await pause(failures)
        # Perhaps it isn't the backend, but one of these: then another one passes alone.
        items = list(self._in_flight)
        random.shuffle(items)
        if len(items) > 1 and await self._try(items[:1]) is None:
            await self._isolate(items[1:])
        self._set_aside(self._aside, self._in_flight, ASIDE_SECONDS)

    async def _try(self, items: Batch) -> BaseException | None:
        """Settle these together; why that failed, if it did."""
        try:
            foreign = await self._subscription.settle([settlement for settlement, _ in items])
            foreign = list(foreign or ())
        except BaseException as error:
            if is_cancelled():
                raise
            return (
                error.with_traceback(None) if isinstance(error, BackendUnavailableError) else error
            )
        self._outage.works(WHAT)
        self._forget(items)
        self._settled(items, foreign)
        return None

    async def _isolate(self, items: Batch) -> None:
        """Settle what can be: the backend answers, and chokes on some of these."""
        items = list(items)
        if len(items) == 1:
            await self._settle_alone(items[0])
            return
        middle = len(items) // 2
        for half in (items[:middle], items[middle:]):
            if await self._try(half) is not None:
                await self._isolate(half)

    async def _settle_alone(self, item: Item) -> None:
        settlement, context = item
        error = await self._try([item])
        if error is not None and settlement.failure is not None:
            short = msgspec.structs.replace(settlement, failure=_shortened(settlement.failure))
            self._in_flight[self._in_flight.index(item)] = item = (short, context)
            error = await self._try([item])
        if error is None:
            return
        if isinstance(error, BackendUnavailableError):
            self._set_aside(self._aside, [item], ASIDE_SECONDS)
            return
        write(
            job_log.error,
            "job %s (%s): the backend refuses to %s it; that is tried again every %.0f s",
            *(shown(context.id), shown(context.handler), settlement.verdict.value),
            HOPELESS_SECONDS,
            error=error,
        )
        self._set_aside(self._hopeless, [item], HOPELESS_SECONDS)

    def _set_aside(self, where: Batch, items: Batch, seconds: float) -> None:
        """Let others pass, and try these again later."""
        if not items:
            return
        where += items
        self._forget(list(items))
        if seconds not in self._timers:
            self._timers[seconds] = self._loop.call_later(
                seconds, self._take_up_again, where, seconds
            )

    def _take_up_again(self, where: Batch, seconds: float) -> None:
        del self._timers[seconds]
        self._pending += where
        where.clear()
        self._arrived.set()

    def _forget(self, items: Batch) -> None:
        if len(items) == len(self._in_flight):
            self._in_flight = []
        else:
            gone = {id(item) for item in items}
            self._in_flight = [item for item in self._in_flight if id(item) not in gone]


def _shortened(failure: Failure) -> Failure:
    """The same in a few plain words, for a backend that can't hold it as it is."""
    error = failure.error[:SHORT_CHARS].encode("ascii", "backslashreplace").decode()
    return Failure("".join(c if c.isprintable() else "?" for c in error), "", failure.attempts)
