"""One life of the consuming connection: what it delivered can be settled on it alone."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection

from offload_amqp.connection import CLOSE_SECONDS, Broker
from offload_amqp.errors import FAILURES, translated
from offload_amqp.feed import Feed
from offload_amqp.names import Names
from offload_amqp.topology import Topology
from offload_amqp.wire import Incoming, LostError

HELD_AT_MOST = 65_535
"""Messages of one queue that a worker holds until they are due; more would wait behind them."""

Deliver = Callable[["Generation", str, Incoming], None]


class Generation:
    """A connection with two channels: one for what is ready, one for what is due in a moment."""

    work: Feed
    soon: Feed
    is_consuming = False
    """Whether it has ever asked for jobs."""

    def __init__(self, broker: Broker, names: Names, topology: Topology) -> None:
        self._broker = broker
        self._names = names
        self._topology = topology
        self.lost = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None

    async def begin(
        self, queues: Collection[str], prefetch: int, on_work: Deliver, on_soon: Deliver
    ) -> None:
        """Connect, make sure that the queues are there, and consume them.

        Raises:
            BackendError: the broker is away, or a queue is another than it should be.
        """
        self._connection = await self._broker.connect()
        work = {self._names.work(queue): queue for queue in queues}
        soon = {self._names.soon(queue): queue for queue in queues}
        try:
            async with translated(self._broker.where, self._broker.timeout):
                channel = await self._connection.open_channel()
                for queue in queues:
                    for part in self._topology.of_queue(queue):
                        await part.declare(channel)
                self.work = Feed(channel, work, lambda *each: on_work(self, *each), self.lost)
                channel = await self._connection.open_channel()
                self.soon = Feed(channel, soon, lambda *each: on_soon(self, *each), self.lost)
                await self.soon.consume(HELD_AT_MOST)
                self.is_consuming = True
                await self.work.consume(prefetch)
        except BaseException:
            await self.close()
            raise
        self._watching = asyncio.create_task(self._watch(), name="offload-amqp-watch")

    async def _watch(self) -> None:
        """Ask the broker now and then whether it still has our consumers.

        It tells us when it ends one, but not if its queue is declared anew at once.
        """
        seconds = self._broker.heartbeat
        with contextlib.suppress(*FAILURES):
            while True:
                await asyncio.sleep(seconds)
                async with asyncio.timeout(2 * seconds):
                    if not (await self.work.is_consumed() and await self.soon.is_consumed()):
                        break
        self.lost.set()

    @property
    def unsettled(self) -> Collection[Incoming] | None:
        """The jobs that were delivered and are not settled; None if it never came to that."""
        return self.work.unsettled if self.is_consuming else None

    def reason(self) -> Exception | None:
        """Why it was lost, as far as the broker has said so, or the network."""
        channels = [feed.channel.error for feed in (self.work, self.soon)]
        return next(filter(None, channels), self._connection.error)

    async def close(self) -> None:
        """Disconnect. What is not settled goes back to the broker's queues."""
        self.lost.set()
        if self._watching is not None:
            self._watching.cancel()
        await self._connection.close(CLOSE_SECONDS)

    def drop(self) -> None:
        """Disconnect at once."""
        self._connection.abort(LostError("it was given up"))
