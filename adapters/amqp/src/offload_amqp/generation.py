"""One life of the consuming connection: what it delivered can be settled on it alone."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, cast

from aiormq import Channel, Connection
from aiormq.abc import DeliveredMessage

from offload import BackendError
from offload_amqp.connection import Broker
from offload_amqp.errors import FAILURES, translated
from offload_amqp.topology import Topology

HELD_AT_MOST = 1000
"""Messages that a worker holds at a time until they are due."""

Deliver = Callable[["Generation", str, DeliveredMessage], Coroutine[Any, Any, None]]


@dataclass(eq=False, slots=True)
class Receipt:
    """What it takes to settle one delivery."""

    generation: Generation
    channel: Channel
    tag: int
    is_copied: bool = False
    """Whether a copy of it is on the broker already, so that only the acknowledgement is left."""


class Generation:
    """A connection with two channels: one for what is ready, one for what is due in a moment."""

    def __init__(self, broker: Broker, topology: Topology) -> None:
        self._broker = broker
        self._topology = topology
        self.lost = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None
        self._unsettled: dict[Channel, dict[int, None]] = {}
        self._consumers: list[tuple[Channel, str]] = []

    async def connect(self, queues: Iterable[str]) -> None:
        """Connect, and make sure that the queues are there.

        Raises:
            BackendError: the broker is away, or a queue is another than it should be.
        """
        self._connection: Connection = await self._broker.connect()
        try:
            async with self._translated():
                self.work = await self._open_channel()
                self.soon = await self._open_channel()
                for queue in queues:
                    for part in self._topology.of_queue(queue):
                        await part.declare(self.work)
        except BaseException:
            await self.close()
            raise
        self._connection.closing.add_done_callback(lambda _: self.lost.set())
        self._watching = asyncio.create_task(self._watch(), name="offload-amqp-watch")

    async def _watch(self) -> None:
        """Ask the broker for an answer now and then.

        The client would take silence for a loss, too, but only after three heartbeats and more.
        """
        seconds = self._broker.heartbeat
        try:
            while True:
                await asyncio.sleep(seconds)
                async with translated(self._broker.where, seconds):
                    await self.soon.basic_qos(prefetch_count=HELD_AT_MOST)
        except BackendError:
            self.lost.set()

    def _translated(self) -> AbstractAsyncContextManager[None]:
        return translated(self._broker.where, self._broker.timeout)

    async def _open_channel(self) -> Channel:
        channel = cast(Channel, await self._connection.channel(publisher_confirms=False))
        channel.closing.add_done_callback(lambda _: self.lost.set())
        # The broker ends a consumer when its queue is deleted: then everything is made anew.
        channel.on_consumer_cancel_callbacks.add(lambda _: self.lost.set())
        self._unsettled[channel] = {}
        return channel

    # -- consuming -------------------------------------------------------------

    async def consume(
        self, channel: Channel, names: dict[str, str], prefetch: int, deliver: Deliver
    ) -> None:
        """Consume these queues of the broker, so many deliveries unsettled at most of each."""
        async with self._translated():
            await channel.basic_qos(prefetch_count=prefetch)
            for queue, name in names.items():
                on_message = self._receiver(queue, deliver)
                consuming = await channel.basic_consume(name, on_message)
                self._consumers.append((channel, str(consuming.consumer_tag)))

    def _receiver(
        self, queue: str, deliver: Deliver
    ) -> Callable[[DeliveredMessage], Coroutine[Any, Any, None]]:
        async def receive(message: DeliveredMessage) -> None:
            await deliver(self, queue, message)

        return receive

    def receipt(self, message: DeliveredMessage) -> Receipt:
        """The receipt of a message that was just delivered."""
        channel, tag = cast(Channel, message.channel), message.delivery_tag or 0
        self._unsettled[channel][tag] = None
        return Receipt(self, channel, tag)

    async def cancel(self, channel: Channel) -> None:
        """Consume no more on this channel; what it delivered can still be settled."""
        async with self._translated():
            for consumer in [each for each in self._consumers if each[0] is channel]:
                self._consumers.remove(consumer)
                await channel.basic_cancel(consumer[1])

    # -- settling --------------------------------------------------------------

    async def acknowledge(self, receipts: Sequence[Receipt]) -> None:
        """Acknowledge these: those in front with one frame, the others with one each."""
        async with self._translated():
            await self._acknowledge(receipts)

    async def _acknowledge(self, receipts: Sequence[Receipt]) -> None:
        for channel, unsettled in self._unsettled.items():
            tags = {receipt.tag for receipt in receipts if receipt.channel is channel}
            tags &= unsettled.keys()
            front = 0
            for tag in unsettled:
                if tag not in tags:
                    break
                front = tag
            if front:
                await channel.basic_ack(front, multiple=True, wait=False)
            for tag in sorted(tags):
                if tag > front:
                    await channel.basic_ack(tag, wait=False)
                del unsettled[tag]

    async def close(self) -> None:
        """Disconnect. What is not settled goes back to the broker's queues."""
        self.lost.set()
        if self._watching is not None:
            self._watching.cancel()
        with contextlib.suppress(*FAILURES, RuntimeError):
            await self._connection.close(timeout=self._broker.timeout / 10)
