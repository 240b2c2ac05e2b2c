"""Which way a job goes: to its queue at once, to who holds it for a moment, or down the ladder."""

from __future__ import annotations

from collections.abc import Sequence

from offload import Entry
from offload_amqp.messages import HOLD, Message, headers_of, now_ms
from offload_amqp.names import Names, first_level, ladder_key
from offload_amqp.publisher import Publisher

HELD_MS = 2000
"""What is due sooner is held by a worker all the time; else the last second or two of it."""


class Router:
    """Publishes jobs by the way that their due times ask for."""

    def __init__(self, names: Names, publisher: Publisher) -> None:
        self._names = names
        self._publisher = publisher

    async def send(self, entries: Sequence[Entry], runs: Sequence[int]) -> None:
        """Send these jobs, each with the number of runs that it had."""
        now = now_ms()
        await self._publisher.publish(
            [self._message(entry, had, now) for entry, had in zip(entries, runs, strict=True)]
        )

    def _message(self, entry: Entry, runs: int, now: int) -> Message:
        names, queue = self._names, entry.queue
        delay = entry.delay_ms if entry.at_ms is None else entry.at_ms - now
        if delay <= 0:
            return Message(
                "", names.work(queue), entry.body, headers_of(entry.id, runs, now), queue
            )
        delay += 1  # the millisecond that is now has begun already
        headers = headers_of(entry.id, runs, now + delay)
        if delay < HELD_MS:
            headers[HOLD] = delay
            return Message("", names.soon(queue), entry.body, headers, queue)
        seconds = delay // 1000 - 1
        headers[HOLD] = delay - seconds * 1000
        level = first_level(seconds)
        key = ladder_key(seconds, queue)
        return Message(names.delay(level), key, entry.body, headers, queue, level)
