"""Publishes messages, and returns when the broker has them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

from aiormq import Channel
from aiormq.exceptions import PublishError

from offload import BackendUnavailableError
from offload_amqp.connection import Line
from offload_amqp.errors import translate, translated
from offload_amqp.messages import Message
from offload_amqp.topology import Part, Topology

RELEARN_SECONDS = 0.5
"""So long we wait to declare a queue that somebody has deleted: its consumers must notice first."""
LOOK_SECONDS = 0.1
"""How often a publish that takes long looks whether the broker has blocked it."""


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
        await self._ensure(f"queue {queue}", self._topology.of_queue(queue))
        for each in range(0 if level is None else level + 1):
            await self._ensure(f"level {each}", self._topology.of_level(each))

    async def _ensure(self, name: str, parts: Iterable[Part]) -> None:
        line = self._line
        channel = await line.channel()
        if name in line.declared:
            return
        try:
            async with translated(line.broker.where, line.broker.timeout):
                for part in parts:
                    await part.declare(channel)
        except BaseException:
            await line.close()
            raise
        line.declared.add(name)

    async def publish(self, messages: Sequence[Message]) -> None:
        """Publish these together, and return when the broker has confirmed every one.

        Raises:
            BackendError: it is away, or takes them not; `maybe_stored` if any may have been taken.
        """
        returned = await self._publish(messages)
        if returned:
            # Somebody has deleted a queue.
            self._line.declared.clear()
            await asyncio.sleep(RELEARN_SECONDS)
            for message in returned:
                await self.ensure(message.queue, message.level)
            if await self._publish(returned):
                where = self._line.broker.where
                raise BackendUnavailableError(f"{where}: a queue was deleted", maybe_stored=True)

    async def _publish(self, messages: Sequence[Message]) -> list[Message]:
        """Publish these; return those that no queue took."""
        line = self._line
        for queue, level in {(each.queue, each.level) for each in messages}:
            await self.ensure(queue, level)
        channel = await line.channel()
        sending = asyncio.gather(
            *(self._publish_one(channel, each) for each in messages), return_exceptions=True
        )
        try:
            async with translated(line.broker.where, line.broker.timeout, maybe_stored=True):
                await self._until_confirmed(sending)
        except BaseException as error:
            sending.cancel()
            await asyncio.wait((sending,))
            if not await line.is_blocked() or isinstance(error, asyncio.CancelledError):
                # A confirmation that comes too late must not find a channel that goes on.
                await line.close()
            raise
        failures = [each for each in sending.result() if isinstance(each, BaseException)]
        for failure in failures:
            if not isinstance(failure, PublishError):
                await line.close()
                raise translate(failure, line.broker.where, maybe_stored=True) from failure
        outcomes = zip(messages, sending.result(), strict=True)
        return [message for message, outcome in outcomes if isinstance(outcome, PublishError)]

    async def _until_confirmed(self, sending: asyncio.Future[Any]) -> None:
        while not (await asyncio.wait((sending,), timeout=LOOK_SECONDS))[0]:
            if await self._line.is_blocked():
                raise self._line.blocked_error(maybe_stored=True)

    @staticmethod
    async def _publish_one(channel: Channel, message: Message) -> None:
        await channel.basic_publish(
            message.body,
            exchange=message.exchange,
            routing_key=message.key,
            properties=message.properties(),
            mandatory=True,
            wait=False,
        )

    async def close(self) -> None:
        """Disconnect."""
        await self._line.close()
