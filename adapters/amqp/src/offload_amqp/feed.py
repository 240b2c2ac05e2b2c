"""The consumers of one channel, and what they were handed and have not settled."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial

from offload_amqp.wire import Channel, Incoming

QUIET_SECONDS = 0.1
"""If nothing has come for so long, nothing is on its way."""


@dataclass(eq=False, slots=True)
class Receipt:
    """What it takes to settle one delivery."""

    feed: Feed
    tag: int
    runs: int = 0
    """How many runs its message says that the job had."""
    is_copied: bool = False
    """Whether a copy of it is on the broker already, so that only the acknowledgement is left."""


class Feed:
    """Consumes some queues, each with a window of its own for what is not settled."""

    def __init__(
        self,
        channel: Channel,
        queues: Mapping[str, str],
        deliver: Callable[[str, Incoming], None],
        lost: asyncio.Event,
    ) -> None:
        """`queues` has our names of the broker's; `lost` is set when this is over."""
        self.channel = channel
        self._queues = queues
        self._deliver = deliver
        self.lost = lost
        channel.on_closed = lost.set
        # The broker ends a consumer when its queue is deleted: then everything is made anew.
        channel.on_cancelled = lost.set
        self._numbers = itertools.count()
        self._prefetch = 0
        self._credit: dict[str, int] = {}
        """The consumers, and how many more deliveries the broker may send to each."""
        self._unsettled: dict[int, tuple[str, Incoming]] = {}
        """The consumer of each delivery, and its message, in their order."""
        self._arrival = asyncio.Event()
        self._lock = asyncio.Lock()
        """Settling, and changes of what is consumed, exclude each other."""

    @property
    def is_consuming(self) -> bool:
        """Whether more may come."""
        return bool(self._credit)

    async def consume(self, prefetch: int) -> None:
        """Consume each queue, with at most `prefetch` unacknowledged deliveries of each.

        To raise it, start another consumer, whose window adds to those of the others: RabbitMQ
        may charge an attempt for what is in flight to a consumer that is cancelled.
        """
        async with self._lock:
            window = prefetch - self._prefetch
            self._prefetch = prefetch
            for name, queue in self._queues.items():
                consumer = f"{queue}.{next(self._numbers)}"
                self._credit[consumer] = window
                deliver = partial(self._receive, consumer, queue)
                await self.channel.consume(name, consumer, window, deliver)

    def _receive(self, consumer: str, queue: str, message: Incoming) -> None:
        self._unsettled[message.tag] = (consumer, message)
        if consumer in self._credit:
            self._credit[consumer] -= 1
        self._arrival.set()
        self._deliver(queue, message)

    async def cancel(self) -> None:
        """Consume no more; what was delivered can still be settled.

        What is on its way to a consumer when it is cancelled RabbitMQ never hands
        out, and counts as a run that died. So we settle nothing until the window is
        full, or the queue empty: then nothing is on its way.
        """
        async with self._lock:
            while any(credit > 0 for credit in self._credit.values()):
                self._arrival.clear()
                try:
                    async with asyncio.timeout(QUIET_SECONDS):
                        await self._arrival.wait()
                except TimeoutError:
                    break
            self._prefetch = 0
            for consumer in list(self._credit):
                await self.channel.cancel(consumer)
                del self._credit[consumer]

    async def is_consumed(self) -> bool:
        """Whether the broker has a consumer for each queue that we consume."""
        async with self._lock:
            for name in self._queues:
                found = await self.channel.look(name)
                if self._credit and not found.consumer_count:
                    return False
        return True

    @property
    def unsettled(self) -> Collection[Incoming]:
        """The messages that were delivered and are not settled."""
        return [message for _, message in self._unsettled.values()]

    def receipt(self, message: Incoming, runs: int = 0) -> Receipt:
        """The receipt of a message that was just delivered."""
        return Receipt(self, message.tag, runs)

    async def acknowledge(self, tags: Collection[int]) -> None:
        """Acknowledge these: those in front with one frame, the others with one each."""
        async with self._lock:
            unsettled = self._unsettled
            left = set(tags) & unsettled.keys()
            front = list(itertools.takewhile(left.__contains__, unsettled))
            left.difference_update(front)
            self.channel.acknowledge(sorted(left), front[-1] if front else 0)
            for tag in (*front, *left):
                consumer, _ = unsettled.pop(tag)
                if consumer in self._credit:  # it was not cancelled since
                    self._credit[consumer] += 1
