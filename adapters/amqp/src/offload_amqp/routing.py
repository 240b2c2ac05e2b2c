"""Which way a job goes: to its queue at once, to who holds it for a moment, or down the ladder."""

from __future__ import annotations

from collections.abc import Sequence

from offload import Delivery, Entry, Failure
from offload_amqp.messages import (
    DUE,
    HOLD,
    RUNS,
    Message,
    due_in,
    failure_headers,
    id_of,
    now_ms,
    number_in,
)
from offload_amqp.names import LEVELS, Names, first_level, ladder_key
from offload_amqp.wire import Incoming

HELD_MS = 2000
"""What is due sooner is held by a worker all the time; else the last second or two of it."""
LONGEST_MS = (2**LEVELS - 1) * 1000
"""The longest delay that the ladder can hold: eight and a half years."""
AHEAD_MS = 3
"""So long before it is due it is on its way to the worker that runs it, and held there."""


class Router:
    """Makes the messages that carry jobs."""

    def __init__(self, names: Names) -> None:
        self._names = names

    def new(self, entries: Sequence[Entry]) -> list[Message]:
        """Jobs that were performed."""
        now = now_ms()
        return [self._scheduled(entry, 0, now) for entry in entries]

    def retry(self, delivery: Delivery, delay_ms: int) -> Message:
        """A job that has failed, and runs again after the delay, or after the longest there is."""
        delay_ms = max(1, min(delay_ms, LONGEST_MS))
        entry = Entry(delivery.id, delivery.queue, delivery.body, delay_ms)
        return self._scheduled(entry, delivery.attempt, now_ms())

    def release(self, delivery: Delivery) -> Message:
        """A job whose run doesn't count."""
        headers = {RUNS: delivery.attempt - 1, DUE: delivery.due_ms}
        return self._ready(delivery.id, delivery.queue, delivery.body, headers)

    def requeued(self, job_id: str, queue: str, body: bytes) -> Message:
        """A dead letter that becomes a job again."""
        return self._ready(job_id, queue, body, {RUNS: 0, DUE: now_ms()})

    def due(self, message: Incoming, queue: str) -> Message:
        """What was held until just before it is due."""
        headers = message.headers
        kept = {RUNS: number_in(headers, RUNS), DUE: due_in(headers), HOLD: AHEAD_MS}
        return self._ready(id_of(message), queue, message.body, kept)

    def dead(self, delivery: Delivery, failure: Failure | None, frame_max: int) -> Message:
        """A job that has failed for good; frames are of `frame_max` bytes at most."""
        name = self._names.dead(delivery.queue)
        headers = failure_headers(failure, frame_max)
        return Message("", name, delivery.id, headers, delivery.body, delivery.queue)

    def _ready(self, job_id: str, queue: str, body: bytes, headers: dict[str, int]) -> Message:
        return Message("", self._names.work(queue), job_id, headers, body, queue)

    def _scheduled(self, entry: Entry, runs: int, now: int) -> Message:
        names, queue = self._names, entry.queue
        delay = entry.delay_ms if entry.at_ms is None else entry.at_ms - now
        if delay <= 0:
            return self._ready(entry.id, queue, entry.body, {RUNS: runs, DUE: now})
        delay += 1  # the millisecond that is now has begun already
        headers = {RUNS: runs, DUE: now + delay}
        if delay < HELD_MS:
            headers[HOLD] = delay
            return Message("", names.soon(queue), entry.id, headers, entry.body, queue)
        seconds = delay // 1000 - 1
        headers[HOLD] = delay - seconds * 1000
        level = first_level(seconds)
        key = ladder_key(seconds, queue)
        return Message(names.delay(level), key, entry.id, headers, entry.body, queue, level)
