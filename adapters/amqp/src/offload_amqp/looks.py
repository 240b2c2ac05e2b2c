"""A look into queues of the broker: their messages are held while it lasts, then given back."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from typing import Self

from offload_amqp.connection import Broker, Line
from offload_amqp.counts import ready_in
from offload_amqp.errors import translated
from offload_amqp.wire import Channel, Incoming

WINDOW = 500
"""Messages that may be on their way to us: it bounds our memory."""
QUIET_SECONDS = 0.1
"""If nothing has come for that long, ask the broker whether there is anything left."""
PUT_BACK_SECONDS, POLL_SECONDS = 3.0, 0.01
"""How long to wait while nothing more is put back, and how often to look."""


class Look:
    """A connection of its own, whose end puts back whatever was not removed.

    AMQP has no other way to see what lies in a queue. What is put back stays in
    front of what was never delivered. A quorum queue puts it behind what was put
    back earlier, though: the order among messages delivered before means nothing.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._line = Line(broker, confirms=False)
        self._readings: dict[str, Reading] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                await self._end()
        finally:
            await self._line.close()

    async def begin(self, names: Sequence[str]) -> dict[str, Reading]:
        """Prepare to read those of these queues that are there.

        Raises:
            BackendError: the broker is unreachable, or refuses the login.
        """
        # All are asked for before the first is read: asking for one that isn't there closes the
        # channel, and so puts back what it holds.
        counts = {name: await ready_in(self._line, name) for name in names}
        for name, count in counts.items():
            if count is not None:
                connection = (await self._line.channel()).connection
                async with translated(self._broker.where, self._broker.timeout):
                    channel = await connection.open_channel()
                self._readings[name] = Reading(self._broker, channel, name, count)
        return self._readings

    async def _end(self) -> None:
        """Return when the queues have again what was not removed: the next look is to find it."""
        for reading in self._readings.values():
            await reading.end()
        loop = asyncio.get_running_loop()
        for name, reading in self._readings.items():
            seen, deadline = -1, 0.0
            while reading.began and (ready := await ready_in(self._line, name)) is not None:
                if ready >= reading.kept:
                    break
                if ready > seen:  # a busy broker takes its time
                    seen, deadline = ready, loop.time() + PUT_BACK_SECONDS
                elif loop.time() > deadline:
                    return  # somebody else has taken some
                await asyncio.sleep(POLL_SECONDS)


class Reading:
    """The messages that lie in one queue when the look begins."""

    def __init__(self, broker: Broker, channel: Channel, name: str, ready: int) -> None:
        self._broker = broker
        self._channel = channel
        self._name = name
        self.began = False
        self.kept = ready
        """How many messages were there at the beginning, and were not removed."""
        self._left = ready
        self._removed = False
        self._consumers = 0
        self._credit = 0
        """How many messages the broker may send before we ask for more, or remove some."""
        self._arrived: list[Incoming] = []
        self._held: dict[int, None] = {}
        """The tags of what was delivered and not removed, in their order."""
        self._event = asyncio.Event()

    async def next(self, wanted: int = WINDOW) -> list[Incoming]:
        """The next messages, in the order of the queue; none at the end.

        Those that join the queue later aren't among them. There are fewer if somebody
        else takes some meanwhile.

        Args:
            wanted: How many are wanted for sure: few more are taken out of the queue.

        Raises:
            BackendError: the broker is unreachable, or the queue is gone.
        """
        is_first, self.began = not self.began, True
        arrived: list[Incoming] = []
        if self._left:
            arrived = (await self._take(wanted))[: self._left]
        elif is_first:
            # A queue without a leader counts none, too; then this raises.
            async with translated(self._broker.where, self._broker.timeout):
                message = await self._channel.get(self._name)
            arrived = [message] if message is not None else []
            self._held.update((message.tag, None) for message in arrived)
        self._left = max(0, self._left - len(arrived)) if arrived else 0
        return arrived

    async def remove(self, messages: Sequence[Incoming]) -> None:
        """Acknowledge these, and return when the broker has read that.

        Raises:
            BackendUnavailableError: it is unreachable; they may be gone, or not.
        """
        tags = {message.tag for message in messages}
        front = list(itertools.takewhile(tags.__contains__, self._held))
        rest = sorted(tags.difference(front))
        self._channel.acknowledge(rest, front[-1] if front else 0)
        for tag in tags:
            del self._held[tag]
        self._credit += len(tags)
        self.kept -= len(tags)
        self._removed = True
        async with translated(self._broker.where, self._broker.timeout, maybe_stored=True):
            await self._channel.look(self._name)

    async def end(self) -> None:
        """Put back what was not removed; return when what was is gone for good.

        Raises:
            BackendUnavailableError: the broker is unreachable; some may be there still.
        """
        async with translated(self._broker.where, self._broker.timeout, maybe_stored=self._removed):
            if self._removed:
                # RabbitMQ keeps acknowledgements back while 32 are on their way to a quorum queue,
                # and forgets them when the channel closes. A new consumer waits for those on their
                # way; then the others go, and another waits for them.
                for _ in range(2):
                    await self._consume(1)
            await self._channel.close()

    async def _take(self, wanted: int) -> list[Incoming]:
        """What has arrived by now, or else the next to come; empty if the queue is."""
        self._channel.on_closed = self._channel.on_cancelled = self._event.set
        async with translated(self._broker.where, self._broker.timeout):
            await self._top_up(wanted)  # so that more is on its way while this is read
            while not self._arrived:
                self._event.clear()
                await self._top_up(wanted)
                try:
                    async with asyncio.timeout(QUIET_SECONDS):
                        await self._event.wait()
                except TimeoutError:
                    if await self._is_empty():
                        break
        arrived, self._arrived = self._arrived, []
        return arrived

    async def _top_up(self, wanted: int) -> None:
        window = min(wanted, self._left, WINDOW)
        if self._credit <= window // 2:
            await self._consume(window - self._credit)

    async def _consume(self, window: int) -> None:
        """Start a consumer: its window adds to those of the others."""
        self._credit += window
        self._consumers += 1
        await self._channel.consume(self._name, f"look-{self._consumers}", window, self._receive)

    def _receive(self, message: Incoming) -> None:
        self._arrived.append(message)
        self._held[message.tag] = None
        self._credit -= 1
        self._event.set()

    async def _is_empty(self) -> bool:
        for _ in range(2):  # what is on its way at the first answer arrives before the second
            found = await self._channel.look(self._name)
            if found.message_count or self._arrived:
                return False
        return True
