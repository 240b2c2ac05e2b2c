"""Jobs in the memory of one process: the reference driver, and the shortest to read."""

from __future__ import annotations

import itertools
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence

from offload import ConfigError, Entry, QueueCounts, StoredDeadLetter
from offload.config import Config
from offload_simple.memory import Memory, StoredJob, now_ms, read_place
from offload_simple.subscription import SimpleSubscription


class SimpleDriver:
    """Stores jobs for the worker that it belongs to."""

    def __init__(self, config: Config) -> None:
        address = config.address
        if address.host or address.path or address.username is not None:
            raise ConfigError(f"simple:// takes no host and no path, only options: {address}")
        self._memory = Memory()
        self._subscription: SimpleSubscription | None = None

    async def open(self) -> None:
        """Nothing to connect to."""

    async def close(self) -> Sequence[str]:
        """Keeps everything for a next start, and names it, since only this object remembers it."""
        memory = self._memory
        waiting = [job.id for ready in memory.ready.values() for job in ready]
        return [*memory.running, *waiting, *(job.id for _, _, job in sorted(memory.scheduled))]

    async def enqueue(self, entries: Sequence[Entry]) -> None:
        self._wake()  # first: if that fails, deep in a recursion, nothing has been stored
        self._memory.add(entries)

    async def subscribe(self, queues: Sequence[str]) -> SimpleSubscription:
        self._memory.take_back()
        self._subscription = SimpleSubscription(self._memory, queues)
        return self._subscription

    def _wake(self) -> None:
        if self._subscription is not None:
            self._subscription.wake()

    async def counts(self) -> Mapping[str, QueueCounts]:
        memory = self._memory
        counts: defaultdict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        for queue, ready in memory.ready.items():
            if ready:
                counts[queue]["waiting"] = len(ready)
        for _, _, job in memory.scheduled:
            counts[job.queue]["scheduled"] += 1
        for job in memory.running.values():
            counts[job.queue]["running"] += 1
        for letter in memory.dead.values():
            counts[letter.queue]["dead"] += 1
        return {queue: QueueCounts(**by_state) for queue, by_state in sorted(counts.items())}

    async def list_dead(self, limit: int, after: str | None) -> Sequence[StoredDeadLetter]:
        place = read_place(after)
        letters = self._memory.dead.values()
        behind = itertools.dropwhile(lambda letter: read_place(letter.cursor) <= place, letters)
        return list(itertools.islice(behind, max(0, min(limit, sys.maxsize))))

    async def show_dead(self, job_id: str) -> StoredDeadLetter | None:
        return self._memory.dead.get(job_id)

    async def requeue_dead(self, ids: Sequence[str]) -> Sequence[str]:
        memory = self._memory
        found = [job_id for job_id in dict.fromkeys(ids) if job_id in memory.dead]
        for job_id in found:
            letter = memory.dead.pop(job_id)
            job = StoredJob(job_id, letter.queue, letter.body, now_ms())
            memory.ready[job.queue].append(job)
        self._wake()
        return found

    async def discard_dead(self, ids: Sequence[str]) -> Sequence[str]:
        return [job_id for job_id in ids if self._memory.dead.pop(job_id, None)]
