"""FIFO: slips in the order of jobs."""

from __future__ import annotations

from collections.abc import Sequence

from offload import Delivery, Entry
from offload.config import Config
from offload_mutants.drivers import fetches
from offload_mutants.registry import mutant
from offload_simple.driver import SimpleDriver
from offload_simple.memory import Memory
from offload_simple.subscription import SimpleSubscription
from offload_sqlite.driver import SqliteDriver
from offload_sqlite.subscription import SqliteSubscription


class _Stack(Memory):
    def add(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            super().add([entry])
            self.ready[entry.queue].rotate(1)


@mutant("FIFO-1", "FIFO-2", "QUE-3", "FAIL-6")
class PutsNewOnesInFront(SimpleDriver):
    """A stack: `LPUSH` and `LPOP`."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._memory = _Stack()


@mutant("FIFO-1", "FIFO-2")
class StoresBatchesBackwards(SimpleDriver):
    """`LPUSH` of a whole batch, taken for `RPUSH`."""

    async def enqueue(self, entries: Sequence[Entry]) -> None:
        await super().enqueue(entries[::-1])


@mutant("FIFO-1", "FIFO-2", base="sqlite")
class TrustsTheOrderOfReturning(SqliteDriver):
    """Takes what `UPDATE … RETURNING` brings as it comes, which is in any order."""

    async def subscribe(self, queues: Sequence[str]) -> SqliteSubscription:
        def shuffled(deliveries: Sequence[Delivery]) -> list[Delivery]:
            return sorted(deliveries, key=lambda each: each.id[::-1])

        return fetches(await super().subscribe(queues), shuffled)


@mutant("FIFO-1", "FIFO-2", base="sqlite")
class OrdersByTheId(SqliteDriver):
    """Stores a batch ordered by its ids, which are in order from one millisecond to the next."""

    async def enqueue(self, entries: Sequence[Entry]) -> None:
        await super().enqueue(sorted(entries, key=lambda entry: entry.id))


@mutant("FIFO-2")
class SortsWhatItFindsAtTheStart(SimpleDriver):
    """Reads its backlog into a dict by id when it starts, and hands that out."""

    async def subscribe(self, queues: Sequence[str]) -> SimpleSubscription:
        for jobs in self._memory.ready.values():
            backlog = sorted(jobs, key=lambda job: job.id[::-1])
            jobs.clear()
            jobs.extend(backlog)
        return await super().subscribe(queues)
