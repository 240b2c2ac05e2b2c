"""A driver for a library with a loop of its own: it hands jobs over, and isn't asked for them.

Five methods to write, and one to call: `run`, for each job that the library has
taken. The engine is the same as behind every other driver, so that everything
else (states, drain, handlers, timeouts, retries, event loops, forks) is done.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import timedelta
from typing import NamedTuple

from msgspec.structs import replace

from offload.driver import Delivery, Entry, Fetched, Settlement, Subscription, Verdict


class PushDriver(abc.ABC):
    """The storing side of a library, and the way in for the jobs that it takes.

    What holds for every method of a `Driver` holds for these, too.
    """

    _intake: _Intake | None = None

    @abc.abstractmethod
    async def open(self) -> None:
        """Connect. After a failure, it may be called again."""

    @abc.abstractmethod
    async def enqueue(self, entries: Sequence[Entry]) -> None:
        """Store these, and return when all are safe.

        When it raises, none is, unless the error says `maybe_stored`.
        """

    @abc.abstractmethod
    async def begin(self, queues: Sequence[str]) -> None:
        """Let the library take jobs of these queues; return when it does.

        It calls `run` for each, and for as many at once as the worker has slots (`concurrency`).
        """

    @abc.abstractmethod
    async def end(self) -> None:
        """Let the library take no more jobs; those that it has handed over go on.

        Called when the worker begins to drain, and after a `begin` that failed or was cancelled.
        """

    @abc.abstractmethod
    async def close(self) -> Sequence[str]:
        """Disconnect when the library has carried out what `run` has returned.

        It may be opened again. Returns the ids of the jobs that nothing but this
        object remembers: none, if the backend outlives it.
        """

    async def run(self, delivery: Delivery) -> Settlement:
        """Run a job that the library has taken, and return the verdict for it to carry out.

        Cancelled, as by a library that has lost its hold on the job, it cancels the handler
        within a second. During a drain, and after it, the verdict is RELEASE.
        """
        if self._intake is None:
            return Settlement(delivery, Verdict.RELEASE)
        return await self._intake.run(delivery)

    async def subscribe(self, queues: Sequence[str]) -> Subscription:
        """Called by the engine; see `Driver.subscribe`."""
        intake = self._intake = _Intake(self.end)
        try:
            await self.begin(queues)
        except BaseException:
            await intake.close()
            raise
        return intake


class _Receipt(NamedTuple):
    """What a delivery was handed over as, and where its verdict is waited for."""

    handed: Delivery
    verdict: asyncio.Future[Settlement]


class _Intake:
    """The `Subscription` of a library that hands its jobs over."""

    lease = timedelta(seconds=3)
    """A third of it is how soon the handler of a `run` that was cancelled hears of that."""

    def __init__(self, end: Callable[[], Awaitable[None]]) -> None:
        self._end = end
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Delivery] = deque()
        self._arrived = asyncio.Event()
        self._ending: asyncio.Task[None] | None = None
        self._has_ended = False

    async def run(self, delivery: Delivery) -> Settlement:
        if self._has_ended:
            return Settlement(delivery, Verdict.RELEASE)
        verdict: asyncio.Future[Settlement] = self._loop.create_future()
        self._waiting.append(replace(delivery, receipt=_Receipt(delivery, verdict)))
        self._arrived.set()
        return await verdict

    async def fetch(self, limit: int) -> Fetched:
        taken: list[Delivery] = []
        while self._waiting and len(taken) < limit:
            delivery = self._waiting.popleft()
            if not delivery.receipt.verdict.done():
                taken.append(delivery)
        if not self._waiting:
            self._arrived.clear()
        return Fetched(taken)

    async def wait(self, timeout: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._arrived.wait()

    async def settle(self, settlements: Sequence[Settlement]) -> Collection[Delivery]:
        return [each.delivery for each in settlements if not _tell(each)]

    def extend(self, deliveries: Collection[Delivery]) -> Collection[Delivery]:
        return [each for each in deliveries if each.receipt.verdict.cancelled()]

    def end_intake(self) -> None:
        self._begin_to_end()

    def _begin_to_end(self) -> asyncio.Task[None]:
        if self._ending is None:
            # Not by the application's task factory, which may want what no other task needs.
            ending = self._end_and_release()
            self._ending = asyncio.Task(ending, loop=self._loop, name="offload-intake")
        return self._ending

    async def _end_and_release(self) -> None:
        try:
            await self._end()
        finally:
            self._has_ended = True
            while self._waiting:
                _tell(Settlement(self._waiting.popleft(), Verdict.RELEASE))

    async def close(self) -> None:
        if asyncio.get_running_loop() is self._loop:  # else all that ran there has ended with it
            await self._begin_to_end()


def _tell(settlement: Settlement) -> bool:
    """Let a `run` return this; False if it has ended before."""
    receipt: _Receipt = settlement.delivery.receipt
    if receipt.verdict.done():
        return False
    # With the delivery that was handed over: no receipt may refer to itself, since neither
    # deliveries nor settlements are seen by the garbage collector.
    receipt.verdict.set_result(replace(settlement, delivery=receipt.handed))
    return True
