"""What this process knows of its runs, and the broker can't: which had begun, and which are over.

The broker counts every delivery that was not settled, whether the job had begun
or only waited here for a slot. When a connection is lost and its process lives,
the process knows better; when a process is killed, the broker's count is all.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable

from offload import Delivery
from offload_amqp.messages import RUNS, due_in, id_of, number_in
from offload_amqp.wire import Incoming

Run = tuple[str, int, int]
"""A run of a job: its id, the runs before it, and when it was due. A retry is another one."""

REMEMBERED = 10_000
"""How many runs of each kind are remembered."""
EARLY_SECONDS = 5.0
"""What was in flight elsewhere when all connections were lost comes again within this time.

The broker may have counted it more than once: it hands it on to connections
that are about to be lost, too.
"""


def run_of(message: Incoming) -> Run:
    """The run that a message asks for."""
    headers = message.headers
    return id_of(message), number_in(headers, RUNS), due_in(headers)


def run_of_delivery(delivery: Delivery) -> Run:
    """The run that a delivery is."""
    return delivery.id, delivery.receipt.runs, delivery.due_ms


class Ledger:
    """The runs that were settled here, and those that were in flight when a connection was lost."""

    def __init__(self) -> None:
        self._settled: deque[Run] = deque(maxlen=REMEMBERED)
        """Of late; whether the broker has read it is known only while the connection lives."""
        self._over: dict[Run, None] = {}
        self._begun: dict[Run, int] = {}
        self._idle: dict[Run, int] = {}
        self.is_empty = True
        """Whether no connection was lost, so that nothing can come again of what was here."""
        self._first_at: float | None = None
        """When the first of what comes again arrived on the present connection."""

    def settle(self, deliveries: Iterable[Delivery], *, is_lost: bool) -> None:
        """These are over: the job is done, or its successor is on the broker.

        `is_lost`: the connection is lost already, so they will come again.
        """
        # Without a due time it is another program's, which may use an id as often as it likes.
        runs = [(each.id, each.receipt.runs, each.due_ms) for each in deliveries if each.due_ms]
        self._settled.extend(runs)
        if is_lost:
            self._close(runs)

    def lose(self, begun: Iterable[Run], idle: Iterable[Run]) -> None:
        """The connection is lost, with these in flight; the broker will count them all."""
        self.is_empty = False
        self._first_at = None
        for known, runs in ((self._begun, begun), (self._idle, idle)):
            for run in runs:
                known[run] = known.pop(run, 0) + 1
            _trim(known)
        self._close(self._settled)

    def _close(self, runs: Iterable[Run]) -> None:
        self._over.update(dict.fromkeys(runs))
        _trim(self._over)

    def is_over(self, run: Run) -> bool:
        """Whether this was settled here, and comes again since the broker didn't hear of it."""
        return run in self._over

    def charged(self, run: Run, again: int) -> int:
        """How many of the deliveries that the broker has counted were runs, or may have been."""
        if self.is_empty:
            return again
        now = time.monotonic()
        if self._first_at is None:
            self._first_at = now
        unknown = max(0, again - self._begun.get(run, 0))
        excused = self._idle.get(run, 0)
        if now - self._first_at < EARLY_SECONDS:
            # It was lost in transit, or by another worker in the same outage. A job that kills
            # its process gains one run by this: the next process has lost no connection yet.
            excused = unknown
        return again - min(unknown, excused)


def _trim(known: dict[Run, int] | dict[Run, None]) -> None:
    while len(known) > REMEMBERED:
        del known[next(iter(known))]
