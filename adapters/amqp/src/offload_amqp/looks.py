"""A look into queues of the broker: their messages are held while it lasts, then given back."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator, Sequence
from typing import Self

from offload_amqp.connection import Broker, Line
from offload_amqp.counts import ready_in
from offload_amqp.errors import translated
from offload_amqp.wire import Channel, Incoming

WINDOW = 500
"""Messages that the broker may send before more are asked for: it bounds our memory."""
QUIET_SECONDS = 0.1
"""If nothing has come for that long, ask the broker whether there is anything left."""


class Look:
    """A connection of its own, whose end puts back whatever was not removed.

    AMQP has no other way to see what lies in a queue. What is put back stays in
    front of what was never delivered. A quorum queue puts it behind what was put
    back earlier, though: the order among messages delivered before means nothing.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._line = Line(broker, confirms=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._line.close()

    async def begin(self, names: Sequence[str]) -> dict[str, Reading]:
        """Prepare to read those of these queues that are there.

        Raises:
            BackendError: the broker is unreachable, or refuses the login.
        """
        # All are asked for before the first is read: asking for one that isn't there closes the
        # channel, and so puts back what it holds.
        counts = {name: await ready_in(self._line, name) for name in names}
        channel = await self._line.channel()
        tags = (f"look-{number}" for number in itertools.count())
        return {
            name: Reading(self._broker, channel, name, count, tags)
            for name, count in counts.items()
            if count is not None
        }


class Reading:
    """The messages that lie in one queue when the look begins."""

    def __init__(
        self, broker: Broker, channel: Channel, name: str, ready: int, tags: Iterator[str]
    ) -> None:
        self._broker = broker
        self._channel = channel
        self._name = name
        self._left = ready
        self._is_first = True
        self._tags = tags
        self._credit = 0
        """How many messages the broker may send before we ask for more, or remove some."""
        self._arrived: list[Incoming] = []
        self._event = asyncio.Event()

    async def next(self) -> list[Incoming]:
        """The next messages, in the order of the queue; none at the end.

        Those that join the queue later aren't among them. There are fewer if somebody
        else takes some meanwhile.

        Raises:
            BackendError: the broker is unreachable, or the queue is gone.
        """
        if self._is_first and not self._left:
            # A queue without a leader counts none, too; then this raises.
            async with translated(self._broker.where, self._broker.timeout):
                message = await self._channel.get(self._name)
            arrived = [] if message is None else [message]
        elif self._left:
            arrived = (await self._take())[: self._left]
        else:
            arrived = []
        self._is_first = False
        self._left = self._left - len(arrived) if arrived else 0
        return arrived

    async def remove(self, messages: Sequence[Incoming]) -> None:
        """Acknowledge these, and return when the broker has read that.

        Raises:
            BackendUnavailableError: it is unreachable; they may be gone, or not.
        """
        self._channel.acknowledge([message.tag for message in messages])
        self._credit += len(messages)
        async with translated(self._broker.where, self._broker.timeout, maybe_stored=True):
            await self._channel.look(self._name)

    async def _take(self) -> list[Incoming]:
        """What has arrived by now, or else the next to come; empty if the queue is."""
        self._channel.on_closed = self._channel.on_cancelled = self._event.set
        async with translated(self._broker.where, self._broker.timeout):
            while not self._arrived:
                await self._ask_for_more()
                self._event.clear()
                try:
                    async with asyncio.timeout(QUIET_SECONDS):
                        await self._event.wait()
                except TimeoutError:
                    if await self._is_empty():
                        break
        arrived, self._arrived = self._arrived, []
        return arrived

    async def _ask_for_more(self) -> None:
        """Start another consumer when what the last one may get is used up: windows only add."""
        if self._credit > 0:
            return
        self._credit += WINDOW
        await self._channel.consume(self._name, next(self._tags), WINDOW, self._receive)

    def _receive(self, message: Incoming) -> None:
        self._arrived.append(message)
        self._credit -= 1
        self._event.set()

    async def _is_empty(self) -> bool:
        for _ in range(2):  # what is on its way at the first answer arrives before the second
            found = await self._channel.look(self._name)
            if found.message_count or self._arrived:
                return False
        return True
