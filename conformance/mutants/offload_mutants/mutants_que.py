"""QUE: slips in who consumes what."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import timedelta

import msgspec

from offload import Delivery, Entry, Fetched, Job, Settlement, Verdict
from offload.config import QUEUES, Config
from offload_mutants.mutants_args import Altering
from offload_mutants.registry import mutant
from offload_mutants.sql_driver import SqlDriver
from offload_simple.driver import SimpleDriver
from offload_simple.memory import StoredJob
from offload_simple.subscription import SimpleSubscription
from offload_sqlite.driver import SqliteDriver
from offload_sqlite.subscription import SqliteSubscription


class _OfEveryQueue(SqliteSubscription):
    def _fetch(self, limit: int) -> Fetched:
        database = self._store.database
        found = database.connection.execute(f"SELECT DISTINCT queue FROM {database.job}")
        queues = self._queues
        self._queues = list(dict.fromkeys([*queues, *(queue for (queue,) in found)]))
        try:
            return super()._fetch(limit)
        finally:
            self._queues = queues


@mutant("QUE-1", "QUE-2", "DUR-1", base="sqlite")
class ConsumesEveryQueue(SqliteDriver):
    """Its query has lost the part with the queues."""

    async def subscribe(self, queues: Sequence[str]) -> SqliteSubscription:
        create = _OfEveryQueue.create
        return await create(self._store, self._thread, queues, timedelta(seconds=30))


@mutant("QUE-1", "QUE-2", base="sqlite")
class ConsumesTheDefaultToo(SqliteDriver):
    """The default queue is always in its list, whatever the worker names."""

    async def subscribe(self, queues: Sequence[str]) -> SqliteSubscription:
        return await super().subscribe(list(dict.fromkeys([*queues, "default"])))


@mutant("QUE-1")
class TellsAnotherQueue(SimpleDriver):
    """Tells handlers the name that it uses itself, with its own prefix."""

    async def subscribe(self, queues: Sequence[str]) -> SimpleSubscription:
        self._subscription = _Prefixing(self._memory, queues)
        return self._subscription


class _Prefixing(SimpleSubscription):
    async def fetch(self, limit: int) -> Fetched:
        fetched = await super().fetch(limit)
        deliveries = [
            msgspec.structs.replace(delivery, queue=f"offload:{delivery.queue}")
            for delivery in fetched.deliveries
        ]
        return Fetched(deliveries, fetched.next_due_ms)


@mutant("QUE-2", "QUE-1")
class PutsItIntoTheFirstInstead(Altering):
    """A queue that it doesn't know means its first one, which is what they will have meant."""

    def alter(self, job: Job) -> Job:
        mine, queue = self.config[QUEUES], getattr(job, "queue", None)
        known = not isinstance(queue, str) or queue in mine or not _is_name(queue)
        return job if known else msgspec.structs.replace(job, queue=mine[0])


def _is_name(queue: str) -> bool:
    return re.fullmatch("[A-Za-z0-9_-]{1,120}", queue) is not None


@mutant("QUE-2", base="sqlite")
class DropsWhatNobodyConsumes(SqliteDriver):
    """Publishes to a queue that isn't bound yet, once it consumes: the broker drops it."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._bound: set[str] | None = None

    async def subscribe(self, queues: Sequence[str]) -> SqliteSubscription:
        self._bound = set(queues)
        return await super().subscribe(queues)

    async def enqueue(self, entries: Sequence[Entry]) -> None:
        bound = self._bound
        await super().enqueue([e for e in entries if bound is None or e.queue in bound])


class _InItsFirst(SimpleSubscription):
    verdict: Verdict

    def _keep(self, job: StoredJob, settlement: Settlement) -> None:
        if settlement.verdict is self.verdict:
            job.queue = self._queues[0]
        super()._keep(job, settlement)


class KeepsInItsFirst(SimpleDriver):
    """A driver that puts what has this verdict into another queue."""

    verdict: Verdict

    async def subscribe(self, queues: Sequence[str]) -> SimpleSubscription:
        self._memory.take_back()
        self._subscription = subscription = _InItsFirst(self._memory, queues)
        subscription.verdict = self.verdict
        return subscription


@mutant("QUE-2")
class RetriesInItsFirstQueue(KeepsInItsFirst):
    """Knows the queues that it consumes, and retries a job in the first of them."""

    verdict = Verdict.RETRY


@mutant("QUE-2")
class GivesBackToItsFirstQueue(KeepsInItsFirst):
    """Gives back to the queue that it consumes, as if it were one."""

    verdict = Verdict.RELEASE


@mutant("QUE-2", base="sql")
class RequeuesInTheDefaultQueue(SqlDriver):
    """Performs a dead letter anew, and has forgotten in which queue it was."""

    def requeue_one(self, job_id: str) -> bool:
        self.db.execute(
            "INSERT INTO jobs (namespace, queue, id, body, due_ms) SELECT namespace, 'default', "
            f"id, body, ? FROM dead_letters WHERE {self.of_letter}",
            (self.now(), self.namespace, job_id),
        )
        return self.discard_one(job_id)


@mutant("QUE-3")
class ServesTheFirstFirst(SimpleDriver):
    """Queues in the order in which they are named, each to its end."""

    async def subscribe(self, queues: Sequence[str]) -> SimpleSubscription:
        self._subscription = _InOrder(self._memory, queues)
        return self._subscription


class _InOrder(SimpleSubscription):
    async def fetch(self, limit: int) -> Fetched:
        memory = self._memory
        memory.promote()
        deliveries: list[Delivery] = []
        for queue in self._queues:
            self._take(queue, limit - len(deliveries), deliveries)
        if deliveries or not memory.scheduled:
            return Fetched(deliveries)
        return await super().fetch(limit)


@mutant("QUE-3")
class ServesTheFullestFirst(SimpleDriver):
    """The queue with most to do comes first."""

    async def subscribe(self, queues: Sequence[str]) -> SimpleSubscription:
        self._subscription = _Fullest(self._memory, queues)
        return self._subscription


class _Fullest(_InOrder):
    async def fetch(self, limit: int) -> Fetched:
        self._queues = sorted(self._queues, key=lambda queue: -len(self._memory.ready[queue]))
        return await super().fetch(limit)


@mutant("QUE-4")
class CleansNames(Altering):
    """Makes a good name of a bad one."""

    def alter(self, job: Job) -> Job:
        if not isinstance(getattr(job, "queue", None), str):
            return job
        clean = re.sub("[^A-Za-z0-9_-]", "", job.queue)[:120] or "default"
        return msgspec.structs.replace(job, queue=clean)


@mutant("QUE-4")
class MatchesTheBeginning(Altering):
    """`$` in its pattern lets a newline through."""

    def alter(self, job: Job) -> Job:
        queue = getattr(job, "queue", None)
        if isinstance(queue, str) and re.match("^[A-Za-z0-9_-]{1,120}$", queue):
            return msgspec.structs.replace(job, queue=queue.rstrip("\n"))
        return job


@mutant("QUE-4")
class TakesNoneForTheDefault(Altering):
    """`queue or "default"`."""

    def alter(self, job: Job) -> Job:
        if not isinstance(job, Job) or job.queue:
            return job
        return msgspec.structs.replace(job, queue="default")


@mutant("QUE-4")
class HasShorterNames(SimpleDriver):
    """Names beyond 63 characters are cut off, as PostgreSQL does, and never found again."""

    async def enqueue(self, entries: Sequence[Entry]) -> None:
        await super().enqueue([msgspec.structs.replace(e, queue=e.queue[:63]) for e in entries])
