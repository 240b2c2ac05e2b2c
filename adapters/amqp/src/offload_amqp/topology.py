"""The queues, exchanges and bindings on the broker. Part of the wire format: see the README."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pamqp import commands

from offload_amqp.names import Names, level_keys
from offload_amqp.wire import Channel

DELIVERY_LIMIT = 100
"""After so many deliveries that were never settled the broker itself makes a dead letter."""

LOOK_LIMIT = 1_000_000_000
"""As many looks at a dead letter as anybody will ever take."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """A topic exchange."""

    name: str

    async def declare(self, channel: Channel) -> None:
        """Make sure that it is there."""
        await channel.call(
            commands.Exchange.Declare(exchange=self.name, exchange_type="topic", durable=True)
        )

    async def check(self, channel: Channel) -> None:
        """Look whether it is there."""
        await channel.call(
            commands.Exchange.Declare(exchange=self.name, exchange_type="topic", passive=True)
        )


@dataclass(frozen=True, slots=True)
class Queue:
    """A durable queue."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)

    async def declare(self, channel: Channel) -> None:
        """Make sure that it is there, and as it should be."""
        await channel.call(
            commands.Queue.Declare(queue=self.name, durable=True, arguments=self.arguments)
        )

    async def check(self, channel: Channel) -> None:
        """Look whether it is there."""
        await channel.look(self.name)


@dataclass(frozen=True, slots=True)
class Binding:
    """What an exchange passes on to a queue, or to another exchange."""

    exchange: str
    key: str
    to: str
    to_exchange: bool = False

    async def declare(self, channel: Channel) -> None:
        """Make sure that it is there."""
        method = (
            commands.Exchange.Bind(destination=self.to, source=self.exchange, routing_key=self.key)
            if self.to_exchange
            else commands.Queue.Bind(queue=self.to, exchange=self.exchange, routing_key=self.key)
        )
        await channel.call(method)


@dataclass(frozen=True, slots=True)
class Given:
    """What somebody else declares, and we only look for."""

    part: Exchange | Queue

    async def declare(self, channel: Channel) -> None:
        """Make sure that it is there."""
        await self.part.check(channel)


Part = Exchange | Queue | Binding | Given


class Topology:
    """What one namespace consists of."""

    def __init__(self, names: Names, queue_type: str, *, declares: bool = True) -> None:
        """`declares`: what is missing is declared; else it is looked for, as far as AMQP can:
        a binding can't be seen.
        """
        self._names = names
        self._declares = declares
        self._is_quorum = queue_type == "quorum"

    def _queue(self, name: str, **arguments: Any) -> Queue:
        kind = "quorum" if self._is_quorum else "classic"
        return Queue(name, {"x-queue-type": kind, **arguments})

    def _needed(self, parts: Sequence[Part]) -> Sequence[Part]:
        if self._declares:
            return parts
        return [Given(part) for part in parts if isinstance(part, Exchange | Queue)]

    def of_queue(self, queue: str) -> Sequence[Part]:
        """What a queue needs; in this order."""
        names = self._names
        dead = names.dead(queue)
        kept: dict[str, Any] = {}
        given_up: dict[str, Any] = {
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": dead,
        }
        if self._is_quorum:
            # Not at-least-once, as on the ladder: with that, RabbitMQ 3.10 may answer no consumer
            # for minutes after a restart. And it is we who bury a job, long before this limit.
            given_up["x-delivery-limit"] = DELIVERY_LIMIT
            # Each look at a dead letter is a delivery, and RabbitMQ 4 would drop it at the 20th.
            kept["x-delivery-limit"] = LOOK_LIMIT
        return self._needed(
            [
                Exchange(names.due),
                self._queue(dead, **kept),
                self._queue(names.work(queue), **given_up),
                self._queue(names.soon(queue), **given_up),
                Binding(names.due, f"#.{queue}", names.soon(queue)),
            ]
        )

    def needed_for(self, queue: str, level: int | None) -> list[Part]:
        """What a queue needs, and the ladder from a level down; in this order."""
        levels = [self.of_level(each) for each in range(0 if level is None else level + 1)]
        return [*self.of_queue(queue), *itertools.chain.from_iterable(levels)]

    def of_level(self, level: int) -> Sequence[Part]:
        """What a level of the ladder needs, that below it excepted."""
        name = self._names.delay(level)
        below = self._names.delay(level - 1) if level else self._names.due
        held, passed = level_keys(level)
        expires: dict[str, Any] = {
            "x-message-ttl": 2**level * 1000,
            "x-dead-letter-exchange": below,
        }
        if self._is_quorum:
            expires["x-dead-letter-strategy"] = "at-least-once"
            expires["x-overflow"] = "reject-publish"  # or the strategy is silently another
        return self._needed(
            [
                Exchange(name),
                self._queue(name, **expires),
                Binding(name, held, name),
                Binding(name, passed, below, to_exchange=True),
            ]
        )
