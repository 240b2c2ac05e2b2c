"""Jobs in the memory of one process: the reference driver, and the shortest to read."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections import defaultdict, deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from offload import (
    Delivery,
    Entry,
    Failure,
    Fetched,
    QueueCounts,
    Settlement,
    StoredDeadLetter,
    Verdict,
)
from offload.config import Config
from offload.errors import ConfigError


@dataclass(slots=True)
class _Stored:
    """A job in memory. It is its own receipt."""

    id: str
    queue: str
    body: bytes
    due_ms: int
    attempt: int = 0


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class SimpleDriver:
    """A driver, and the one subscription to itself."""

    def __init__(self, config: Config) -> None:
        address = config.address
        if address.host or address.path:
            raise ConfigError(f"simple:// takes no host and no path, only options: {address}")
        self._ready: defaultdict[str, deque[_Stored]] = defaultdict(deque)
        self._scheduled: list[tuple[int, int, _Stored]] = []
        self._running: dict[str, _Stored] = {}
        self._dead: dict[str, StoredDeadLetter] = {}
        self._sequence = itertools.count()
        self._queues: Sequence[str] = ()
        self._turn = 0
        self._arrived: asyncio.Future[None] | None = None

    async def open(self) -> None:
        """Nothing to connect to."""

    async def close(self) -> Sequence[str]:
        """Keeps everything for a next start, and names it, since only this object remembers it."""
        scheduled = sorted(self._scheduled)
        waiting = [job.id for ready in self._ready.values() for job in ready]
        return [*self._running, *waiting, *(job.id for _, _, job in scheduled)]

    async def enqueue(self, entries: Sequence[Entry]) -> None:
        now_ms = _now_ms()
        for entry in entries:
            job = _Stored(entry.id, entry.queue, entry.body, now_ms)
            if entry.delay_ms:
                # One more, since the millisecond that is now has begun already.
                job.due_ms += entry.delay_ms + 1
                self._schedule(job)
            elif entry.at_ms is not None and entry.at_ms > now_ms:
                job.due_ms = entry.at_ms
                self._schedule(job)
            else:
                self._ready[job.queue].append(job)
        self._wake()

    async def subscribe(self, queues: Sequence[str]) -> SimpleDriver:
        self._queues = queues
        return self

    async def fetch(self, limit: int) -> Fetched:
        if self._scheduled:
            self._promote()
        deliveries: list[Delivery] = []
        busy = [queue for queue in self._queues if self._ready[queue]]
        self._turn += 1
        while busy and len(deliveries) < limit:
            first = self._turn % len(busy)
            share = max(1, (limit - len(deliveries)) // len(busy))
            for queue in busy[first:] + busy[:first]:
                ready = self._ready[queue]
                for _ in range(min(share, len(ready), limit - len(deliveries))):
                    job = ready.popleft()
                    job.attempt += 1
                    self._running[job.id] = job
                    deliveries.append(
                        Delivery(job.id, job.queue, job.body, job.attempt, job.due_ms, job)
                    )
            busy = [queue for queue in busy if self._ready[queue]]
        if deliveries or not self._scheduled:
            return Fetched(deliveries)
        return Fetched(deliveries, max(0, self._scheduled[0][0] - _now_ms()))

    async def wait(self, timeout: float) -> None:
        loop = asyncio.get_running_loop()
        if any(self._ready[queue] for queue in self._queues):
            return
        self._arrived = loop.create_future()
        timer = loop.call_later(timeout, self._wake)
        try:
            await self._arrived
        finally:
            timer.cancel()
            self._arrived = None

    async def settle(self, settlements: Sequence[Settlement]) -> Collection[Delivery]:
        foreign: list[Delivery] = []
        for settlement in settlements:
            delivery, verdict = settlement.delivery, settlement.verdict
            job = self._running.get(delivery.id)
            if job is not delivery.receipt or job.attempt != delivery.attempt:
                foreign.append(delivery)
                continue
            del self._running[job.id]
            if verdict is Verdict.ACKNOWLEDGE:
                continue
            if verdict is Verdict.RETRY:
                job.due_ms = _now_ms() + settlement.delay_ms + 1
                self._schedule(job)
            elif verdict is Verdict.DEAD_LETTER:
                self._dead[job.id] = StoredDeadLetter(
                    job.id, job.queue, job.body, job.attempt, _now_ms(), settlement.failure or Failure("")
                )
            elif verdict is Verdict.RELEASE:
                job.attempt -= 1
                self._ready[job.queue].appendleft(job)
        return foreign

    def _schedule(self, job: _Stored) -> None:
        heapq.heappush(self._scheduled, (job.due_ms, next(self._sequence), job))
        self._wake()

    def _promote(self) -> None:
        now_ms = _now_ms()
        while self._scheduled and self._scheduled[0][0] <= now_ms:
            job = heapq.heappop(self._scheduled)[2]
            self._ready[job.queue].append(job)

    def _wake(self) -> None:
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)

    async def counts(self) -> Mapping[str, QueueCounts]:
        counts: defaultdict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        for queue, ready in self._ready.items():
            if ready:
                counts[queue]["waiting"] = len(ready)
        for _, _, job in self._scheduled:
            counts[job.queue]["scheduled"] += 1
        for job in self._running.values():
            counts[job.queue]["running"] += 1
        for letter in self._dead.values():
            counts[letter.queue]["dead"] += 1
        return {queue: QueueCounts(**by_state) for queue, by_state in sorted(counts.items())}

    async def list_dead(self, limit: int, after: str | None) -> Sequence[StoredDeadLetter]:
        letters = iter(self._dead.values())
        if after in self._dead:
            letters = itertools.dropwhile(lambda letter: letter.id != after, letters)
            next(letters)
        return list(itertools.islice(letters, limit))

    async def show_dead(self, job_id: str) -> StoredDeadLetter | None:
        return self._dead.get(job_id)

    async def requeue_dead(self, ids: Sequence[str]) -> Sequence[str]:
        found = [job_id for job_id in dict.fromkeys(ids) if job_id in self._dead]
        for job_id in found:
            letter = self._dead.pop(job_id)
            self._ready[letter.queue].append(_Stored(job_id, letter.queue, letter.body, _now_ms()))
        self._wake()
        return found

    async def discard_dead(self, ids: Sequence[str]) -> Sequence[str]:
        return [job_id for job_id in ids if self._dead.pop(job_id, None)]
