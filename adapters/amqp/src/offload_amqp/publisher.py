"""Publishes messages, and returns when the broker has them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from offload import BackendUnavailableError
from offload_amqp.connection import Line
from offload_amqp.errors import MissingError, translate, translated
from offload_amqp.messages import Message
from offload_amqp.topology import Topology
from offload_amqp.wire import BlockedError

RELEARN_SECONDS = 0.5
"""So long we wait to declare a queue that somebody has deleted: its consumers must notice first."""


class Publisher:
    """Publishes on a line of its own."""

    def __init__(self, line: Line, topology: Topology) -> None:
        self._line = line
        self._topology = topology

    async def ensure(self, queue: str, level: int | None = None) -> None:
        """Make sure that a queue is there, and the ladder from this level down, before it is used.

        Raises:
            BackendError: the broker is away, or something is there that is another.
        """
        line = self._line
        channel = await line.channel()
        if (queue, level) in line.declared:
            return
        try:
            async with translated(line.broker.where, line.broker.timeout):
                for part in self._topology.needed_for(queue, level):
                    await part.declare(channel)
        except MissingError:
            raise  # the connection is fine, and the line opens another channel
        except BaseException:
            line.drop()
            raise
        line.declared.add((queue, level))

    async def publish(self, messages: Sequence[Message]) -> None:
        """Publish these together, and return when the broker has confirmed every one.

        Raises:
            BackendError: it is away, or takes them not; `maybe_stored` if any may have been taken.
        """
        refused = await self._publish(messages)
        if refused:
            # Somebody has deleted a queue, or the node of its leader has died: then RabbitMQ 3.10
            # would send whatever comes on this channel there, for ever.
            self._line.drop()
            await asyncio.sleep(RELEARN_SECONDS)
            refused = await self._publish([messages[index] for index, _ in refused])
        if refused:
            where, reason = self._line.broker.where, refused[0][1]
            raise BackendUnavailableError(f"{where} refuses messages: {reason}", maybe_stored=True)

    async def _publish(self, messages: Sequence[Message]) -> list[tuple[int, str]]:
        """Publish these; return which of them the broker didn't take, and why."""
        line = self._line
        where = line.broker.where
        if (await line.channel()).connection.blocked:
            raise translate(BlockedError(), where, maybe_stored=False)
        for queue, level in {(each.queue, each.level) for each in messages}:
            await self.ensure(queue, level)
        channel = await line.channel()
        try:
            async with translated(where, line.broker.timeout, maybe_stored=True):
                return await channel.publish(messages)
        except BackendUnavailableError as error:
            if not isinstance(error.__cause__, BlockedError):
                line.drop()
            raise

    async def close(self) -> None:
        """Disconnect."""
        await self._line.close()

    def drop(self) -> None:
        """Disconnect at once."""
        self._line.drop()
