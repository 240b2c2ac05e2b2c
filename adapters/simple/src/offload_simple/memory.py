"""Where the jobs are: queues, a heap for those that are due later, and the dead letters."""

from __future__ import annotations

import heapq
import itertools
import time
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from offload import Entry, Failure, StoredDeadLetter, UsageError


class StoredJob(msgspec.Struct, eq=False, gc=False):
    """A job in memory. It is its own receipt."""

    id: str
    queue: str
    body: bytes
    due_ms: int
    attempt: int = 0


def now_ms() -> int:
    """The clock that due times go by: the host's."""
    return time.time_ns() // 1_000_000


def read_place(cursor: str | None) -> int:
    """The number of a dead letter in their order; 0 stands before the first.

    Raises:
        UsageError: that is no cursor of ours.
    """
    if cursor is None:
        return 0
    if cursor.isascii() and cursor.isdigit() and len(cursor) < 20:
        return int(cursor)
    raise UsageError(f"after: {cursor!r} is not the cursor of a dead letter")


@dataclass(slots=True)
class Memory:
    """Everything that one driver remembers, over stops and starts."""

    ready: defaultdict[str, deque[StoredJob]] = field(default_factory=lambda: defaultdict(deque))
    scheduled: list[tuple[int, int, StoredJob]] = field(default_factory=list)
    running: dict[str, StoredJob] = field(default_factory=dict)
    dead: dict[str, StoredDeadLetter] = field(default_factory=dict)
    _sequence: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def add(self, entries: Sequence[Entry]) -> None:
        """Put new jobs where they belong."""
        now = now_ms()
        for entry in entries:
            job = StoredJob(entry.id, entry.queue, entry.body, now)
            if entry.delay_ms:
                self.schedule(job, now, entry.delay_ms)
            elif entry.at_ms is not None and entry.at_ms > now:
                job.due_ms = entry.at_ms
                self._push(job)
            else:
                self.ready[job.queue].append(job)

    def take_back(self) -> None:
        """What a worker had taken whose loop has ended waits again, in front."""
        for job in reversed(self.running.values()):
            job.attempt -= 1
            self.ready[job.queue].appendleft(job)
        self.running.clear()

    def schedule(self, job: StoredJob, now: int, delay_ms: int) -> None:
        """Make a job wait."""
        # One more, since the millisecond that is now has begun already.
        job.due_ms = now + delay_ms + 1
        self._push(job)

    def _push(self, job: StoredJob) -> None:
        heapq.heappush(self.scheduled, (job.due_ms, next(self._sequence), job))

    def bury(self, job: StoredJob, failure: Failure) -> None:
        """Put a job behind the last of the dead letters."""
        place = str(next(self._sequence))
        self.dead[job.id] = StoredDeadLetter(job.id, job.queue, job.body, now_ms(), failure, place)

    def promote(self) -> None:
        """Move what is due to the ends of its queues."""
        now = now_ms()
        while self.scheduled and self.scheduled[0][0] <= now:
            job = heapq.heappop(self.scheduled)[2]
            self.ready[job.queue].append(job)
