"""Verdicts that are reached together are settled together."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection
from typing import TypeAlias

import msgspec

from offload.driver import Delivery, Failure, Settlement, Subscription
from offload.engine.outage import Outage
from offload.engine.pause import pause
from offload.engine.refusals import Refusals
from offload.engine.supervisor import end_if_cancelled, must_end
from offload.errors import BackendUnavailableError
from offload.job import JobContext

Item: TypeAlias = tuple[Settlement, JobContext]
Batch: TypeAlias = list[Item]

TRIES = 3
"""How often a batch fails as unavailable before it makes room for others."""
AWAY_IN_A_ROW = 16
"""Consecutive unavailable calls that end the search for a bad verdict: it is the backend."""
ASIDE_SECONDS = 1.0
"""How long it is set aside then; what the backend refuses, twice as long each time, up to"""
LONGEST_ASIDE_SECONDS = 60.0
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
        settled: Callable[[Batch, Collection[Delivery], Collection[int]], None],
        outage: Outage,
    ) -> None:
        """`settled` is told what was settled, and which of it was no longer ours to settle.

        And which was in a call before that failed, and so may have been carried out by that: the
        `id` of each such delivery, which may be of a kind that no set takes.
        """
        self._subscription = subscription
        self._settled = settled
        self._outage = outage
        self._pending: Batch = []
        self._in_flight: Batch = []
        self._aside: Batch = []
        self._refused: Batch = []
        self._doubtful: set[int] = set()
        self._arrived = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._away_in_a_row = 0
        self._told = Refusals()
        self._refusals = 0
        """How often in a row something had to be set aside that is refused."""

    @property
    def unsettled(self) -> int:
        """How many verdicts the backend hasn't accepted yet, but for those that it refuses."""
        return len(self._pending) + len(self._in_flight) + len(self._aside)

    def deliveries(self) -> list[Delivery]:
        """The deliveries behind all verdicts that aren't settled, whose leases must still be held.

        Called from the thread of the lease keeper, too: each list is copied at once.
        """
        lists = (self._pending, self._in_flight, self._aside, self._refused)
        return [settlement.delivery for items in lists for settlement, _ in list(items)]

    def add(self, settlement: Settlement, context: JobContext) -> None:
        """Settle this soon."""
        self._pending.append((settlement, context))
        if len(self._pending) == 1:
            self._arrived.set()

    def close(self) -> None:
        """Try no more."""
        if self._timer is not None:
            self._timer.cancel()

    async def run(self) -> None:
        """Settle what comes, until cancelled."""
        self._doubt(self._in_flight)
        self._pending[:0] = self._in_flight  # of a life before, which ended with an error
        self._in_flight = []
        while True:
            if not self._pending:
                self._arrived.clear()
                await self._arrived.wait()
            self._in_flight, self._pending = self._pending, []
            await self._settle_in_flight()
            end_if_cancelled()

    async def _settle_in_flight(self) -> None:
        for failures in range(1, TRIES + 1):
            error = await self._try(self._in_flight)
            if error is None:
                return
            if not isinstance(error, BackendUnavailableError):
                self._away_in_a_row = 0
                await self._isolate(self._in_flight)
                self._set_aside(self._aside, self._in_flight)
                return
            self._outage.fails(WHAT, error)
            await pause(failures)
        # Perhaps it isn't the backend, but one of these: then another one passes alone.
        items = list(self._in_flight)
        random.shuffle(items)
        self._away_in_a_row = 0
        if await self._try_alone(items[0]) is None and len(items) > 1:
            await self._isolate(items[1:])
        self._set_aside(self._aside, self._in_flight)

    async def _try(self, items: Batch) -> BaseException | None:
        """Settle these together; why that failed, if it did."""
        try:
            foreign = await self._subscription.settle([settlement for settlement, _ in items])
            foreign = list(foreign or ())
        except BaseException as error:
            if must_end(self._loop):
                raise
            self._doubt(items)
            if not isinstance(error, BackendUnavailableError):
                self._away_in_a_row = 0
                return error
            self._away_in_a_row += 1
            return error.with_traceback(None)
        self._away_in_a_row = 0
        self._outage.works(WHAT)
        self._forget(items)
        if not self.unsettled and not self._refused:
            self._refusals = 0
            self._told.end()
        self._settled(items, foreign, self._doubtful)
        if self._doubtful:
            self._doubtful.difference_update([id(each.delivery) for each, _ in items])
        return None

    def _doubt(self, items: Batch) -> None:
        """A call with these failed: it isn't known which of them it carried out."""
        self._doubtful.update([id(settlement.delivery) for settlement, _ in items])

    async def _isolate(self, items: Batch) -> None:
        """Settle what can be: the backend answers, and chokes on some of these.

        If it ceases to answer, the rest stays in flight.
        """
        items = list(items)
        if len(items) == 1:
            await self._settle_alone(items[0])
            return
        middle = len(items) // 2
        for half in (items[:middle], items[middle:]):
            if self._away_in_a_row >= AWAY_IN_A_ROW:
                return
            if await self._try(half) is not None:
                await self._isolate(half)

    async def _try_alone(self, item: Item) -> BaseException | None:
        """Settle this one, if need be with its failure in a few words."""
        settlement, context = item
        error = await self._try([item])
        if error is not None and settlement.failure is not None:
            short = msgspec.structs.replace(settlement, failure=_shortened(settlement.failure))
            if await self._try([(short, context)]) is None:
                self._forget([item])
                return None
        return error

    async def _settle_alone(self, item: Item) -> None:
        error = await self._try_alone(item)
        if error is None:
            return
        if isinstance(error, BackendUnavailableError):
            self._set_aside(self._aside, [item])
            return
        settlement, context = item
        self._told.tell(settlement, context, error)
        self._refusals += not self._refused
        self._set_aside(self._refused, [item])
        self._settled([], (), ())  # a stop waits for this one no longer

    def _set_aside(self, where: Batch, items: Batch) -> None:
        """Let others pass, and try these again later."""
        if not items:
            return
        where += items
        self._forget(items)
        if self._timer is None:
            doublings = max(0, self._refusals - 1) if where is self._refused else 0
            wait = min(ASIDE_SECONDS * 2**doublings, LONGEST_ASIDE_SECONDS)
            self._timer = self._loop.call_later(wait, self._take_up_again)

    def _take_up_again(self) -> None:
        self._timer = None
        self._pending += self._aside + self._refused
        self._aside, self._refused = [], []
        self._arrived.set()

    def _forget(self, items: Batch) -> None:
        if items is self._in_flight:
            self._in_flight = []
        else:
            gone = {id(item) for item in items}
            self._in_flight = [item for item in self._in_flight if id(item) not in gone]


def _shortened(failure: Failure) -> Failure:
    """The same in a few plain words, for a backend that can't hold it as it is."""
    error = failure.error[:SHORT_CHARS].encode("ascii", "backslashreplace").decode()
    return Failure("".join(c if c.isprintable() else "?" for c in error), "", failure.attempts)
