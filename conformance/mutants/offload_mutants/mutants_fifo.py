"""FIFO: slips in the order of jobs."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Collection, Sequence

from offload import Delivery, Entry, Fetched, Settlement, Verdict
from offload.config import Config
from offload_mutants.bare_library import now_ms
from offload_mutants.bare_worker import BareDriver
from offload_mutants.drivers import fetches
from offload_mutants.registry import mutant
from offload_mutants.sql_driver import SqlDriver
from offload_simple.driver import SimpleDriver
from offload_simple.memory import Memory, StoredJob
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


class _TheNewOnesFirst(SimpleSubscription):
    async def fetch(self, limit: int) -> Fetched:
        ready, backlog = self._memory.ready, self.backlog
        if not any(ready[queue] for queue in self._queues) and backlog:
            job = backlog.popleft()
            ready[job.queue].append(job)
        return await super().fetch(limit)

    backlog: deque[StoredJob]

    async def wait(self, timeout: float) -> None:
        if not self.backlog:
            await super().wait(timeout)


@mutant("FIFO-2")
class TakesItsBacklogBehindWhatIsNew(SimpleDriver):
    """Listens first, and reads what was there before it whenever nothing new comes."""

    async def subscribe(self, queues: Sequence[str]) -> SimpleSubscription:
        self._memory.take_back()
        self._subscription = subscription = _TheNewOnesFirst(self._memory, queues)
        subscription.backlog = deque()
        for jobs in self._memory.ready.values():
            subscription.backlog.extend(jobs)
            jobs.clear()
        return subscription

    async def close(self) -> Sequence[str]:
        if isinstance(self._subscription, _TheNewOnesFirst):
            while self._subscription.backlog:
                job = self._subscription.backlog.pop()
                self._memory.ready[job.queue].appendleft(job)
        return await super().close()


@mutant("FIFO-2", base="sqlite")
class StoresItOnceMoreWhenItStops(SqliteDriver):
    """Makes sure that what it has performed is stored, when it stops: it gets new places."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._performed: list[str] = []

    async def enqueue(self, entries: Sequence[Entry]) -> None:
        await super().enqueue(entries)
        self._performed += [each.id for each in entries if not each.delay_ms and not each.at_ms]

    async def close(self) -> Sequence[str]:
        await self._thread.call(self._store_again)
        return await super().close()

    def _store_again(self) -> None:
        database = self._store.database
        if not self._performed:
            return
        with database.errors(), database.transaction():
            database.connection.executemany(
                f"UPDATE {database.job} SET seq = (SELECT max(seq) + 1 FROM {database.job}) "
                "WHERE id = ? AND session = 0",
                [(job_id,) for job_id in self._performed],
            )


class _ToTheEnd(SimpleSubscription):
    def _keep(self, job: StoredJob, settlement: Settlement) -> None:
        super()._keep(job, settlement)
        if settlement.verdict is Verdict.RELEASE:
            self._memory.ready[job.queue].rotate(-1)


@mutant("FIFO-3")
class GivesBackToTheEnd(SimpleDriver):
    """Publishes a copy of what it gives back, as brokers have it that know no head of a queue."""

    async def subscribe(self, queues: Sequence[str]) -> SimpleSubscription:
        self._subscription = _ToTheEnd(self._memory, queues)
        return self._subscription


class _AsTheyCome(SimpleSubscription):
    async def settle(self, settlements: Sequence[Settlement]) -> Collection[Delivery]:
        return await super().settle(settlements[::-1])


@mutant("FIFO-3")
class GivesBackFromTheWrongSide(SimpleDriver):
    """Gives back one by one to the head, and the first of them first, which turns them around."""

    async def subscribe(self, queues: Sequence[str]) -> SimpleSubscription:
        self._subscription = _AsTheyCome(self._memory, queues)
        return self._subscription


@mutant("FIFO-3", base="sql")
class ReleasesAsDueNow(SqlDriver):
    """Sets what it gives back to due now, by which it orders: behind all that is due already."""

    def release(self, receipt: object) -> bool:
        statement = (
            "UPDATE jobs SET owner = NULL, lease_ms = 0, attempt = attempt - 1, due_ms = ? "
            f"WHERE {self.fence}"
        )
        return self.changes(statement, (self.now(), *receipt))  # type: ignore[misc]


@mutant("FIFO-3", base="bare")
class NumbersWhatGoesBackAnew(BareDriver):
    """Puts what goes back into the library as a new task, with the next number."""

    async def run(self, delivery: Delivery) -> Settlement:
        settlement = await super().run(delivery)
        if settlement.verdict is Verdict.RELEASE:
            task = delivery.receipt
            task.due_ms, task.number = now_ms(), next(_numbers)
        return settlement


_numbers = itertools.count(1 << 32)
