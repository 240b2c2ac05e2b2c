"""A look at the broker's queues, which makes nothing."""

from __future__ import annotations

from collections.abc import Iterable

from offload import QueueCounts
from offload_amqp.connection import Line
from offload_amqp.errors import MissingError, translated
from offload_amqp.names import Names


async def ready_in(line: Line, name: str) -> int | None:
    """How many messages are ready in a queue of the broker; None if there is no such queue.

    Raises:
        BackendError: the broker is away, or lets us not in.
    """
    channel = await line.channel()
    try:
        async with translated(line.broker.where, line.broker.timeout):
            found = await channel.look(name)
    except MissingError:
        return None  # that has closed the channel: the line opens the next
    return found.message_count or 0


async def count(line: Line, names: Names, queues: Iterable[str]) -> dict[str, QueueCounts]:
    """The counts of those of these queues that are there.

    AMQP tells how many messages are ready in a queue, and no more: neither what
    a worker has, nor for which queue is what lies on the ladder.
    """
    counts: dict[str, QueueCounts] = {}
    for queue in sorted(queues):
        waiting = await ready_in(line, names.work(queue))
        if waiting is not None:
            dead = await ready_in(line, names.dead(queue)) or 0
            counts[queue] = QueueCounts(waiting=waiting, scheduled=None, running=None, dead=dead)
    return counts
