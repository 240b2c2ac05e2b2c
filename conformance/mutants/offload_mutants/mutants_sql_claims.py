"""Slips in how work is looked for, and in who takes it."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from offload import Delivery, Entry, Fetched, QueueCounts
from offload.config import Config
from offload_mutants.registry import mutant
from offload_mutants.sql_driver import SqlDriver, SqlSubscription
from offload_mutants.sql_tables import SCHEMA
from offload_mutants.wrapper import Wrapper

# Looking for work.


class _UntilTheNextInstant(SqlSubscription):
    next_due_ms: int | None = None

    async def fetch(self, limit: int) -> Fetched:
        fetched = await super().fetch(limit)
        self.next_due_ms = await self.driver.call(self.look, self.driver.now())
        return msgspec.structs.replace(fetched, next_due_ms=self.next_due_ms)

    def look(self, now: int) -> int | None:
        driver = self.driver
        due = [
            driver.db.execute(
                f"SELECT MIN(due_ms) FROM jobs WHERE {driver.of_queue} AND due_ms > ?",
                (driver.namespace, queue, now),
            ).fetchone()[0]
            for queue in self.queues
        ]
        return min((each - now for each in due if each is not None), default=None)

    async def wait(self, timeout: float) -> None:
        self.driver.poll = 60 if self.next_due_ms is None else self.next_due_ms / 1000
        await super().wait(timeout)


@mutant("DUR-2", "DUR-1", "DUR-6", "DIST-6", base="sql")
class SleepsUntilTheNextIsDue(SqlDriver):
    """Looks when the next job is due or its bell rings, and not when a lease has run out."""

    async def subscribe(self, queues: Sequence[str]) -> SqlSubscription:
        self.subscription = _UntilTheNextInstant(self, queues)
        return self.subscription


@mutant("DIST-6", base="sql")
class LooksLessAndLessOften(SqlDriver):
    """Doubles its interval for as long as it finds nothing, up to half a second."""

    def fetch(self, owner: str, queues: Sequence[str], limit: int) -> list[Delivery]:
        found = super().fetch(owner, queues, limit)
        self.poll = 0.01 if found else min(self.poll * 2, 0.5)
        return found


class _WaitsOnTheConnection(SqlSubscription):
    async def wait(self, timeout: float) -> None:
        await self.driver.call(self.arrived_soon)

    def arrived_soon(self) -> None:
        for _ in range(20):
            if any(self.driver.has_work(queue) for queue in self.queues):
                return
            time.sleep(0.01)


@mutant("PERF-9", "DIST-6", base="sql")
class WaitsOnItsOnlyConnection(SqlDriver):
    """Blocks the connection with which it performs while it waits for jobs, up to 0.2 s."""

    async def subscribe(self, queues: Sequence[str]) -> SqlSubscription:
        self.subscription = _WaitsOnTheConnection(self, queues)
        return self.subscription


@mutant("LIFE-2", "PERF-2", base="sql")
class LooksWhenAnotherHasCommitted(SqlDriver):
    """`PRAGMA data_version`, which doesn't change by what its own connection commits."""

    version = -1

    def fetch(self, owner: str, queues: Sequence[str], limit: int) -> list[Delivery]:
        (version,) = self.db.execute("PRAGMA data_version").fetchone()
        if version == self.version:
            return []
        found = super().fetch(owner, queues, limit)
        if len(found) < limit:
            self.version = version
        return found


@mutant("PERF-5", "FIFO-2", "LIFE-9", "DUR-1", "DUR-10", base="sql")
class BeginsBehindWhatIsThere(SqlDriver):
    """Takes the last row for its position when it subscribes, as one who listens for events."""

    async def subscribe(self, queues: Sequence[str]) -> SqlSubscription:
        last = await self.call(self.last)
        self.of_queue = f"namespace = ? AND queue = ? AND seq > {last}"
        return await super().subscribe(queues)

    def last(self) -> int:
        found: int = self.db.execute("SELECT IFNULL(MAX(seq), 0) FROM jobs").fetchone()[0]
        return found


@mutant("DIST-2", "PERF-5", base="sql")
class MakesItsTablesWhenItConsumes(SqlDriver):
    """Leaves its tables to the first worker: a process that only performs has none."""

    def make_tables(self) -> None:
        """Not yet."""

    async def subscribe(self, queues: Sequence[str]) -> SqlSubscription:
        await self.call(super().make_tables)
        return await super().subscribe(queues)


@mutant("DIST-2", "PERF-1", "DUR-1", base="sql")
class StoresWithItsNextLook(SqlDriver):
    """Saves itself a transaction: what was performed is written when it next fetches, or closes."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._unsaved: list[Entry] = []

    def store(self, entries: Sequence[Entry]) -> None:
        self._unsaved += entries

    def save(self) -> None:
        unsaved, self._unsaved = self._unsaved, []
        if unsaved:
            super().store(unsaved)

    def fetch(self, owner: str, queues: Sequence[str], limit: int) -> list[Delivery]:
        self.save()
        return super().fetch(owner, queues, limit)

    def disconnect(self) -> None:
        self.save()
        super().disconnect()


# Who takes what.


@mutant("DIST-1", base="sql")
class ChecksAndDoesNotCount(SqlDriver):
    """Updates what it has read if it is still free, and doesn't look whether it was."""

    def fetch(self, owner: str, queues: Sequence[str], limit: int) -> list[Delivery]:
        found: list[Delivery] = []
        for queue in queues:
            now = self.now()
            rows = self.db.execute(
                "SELECT due_ms, seq, id, queue, body, attempt + 1 FROM jobs "
                f"WHERE {self.of_queue} AND due_ms <= ? AND lease_ms <= ? ORDER BY due_ms, seq "
                "LIMIT ?",
                (self.namespace, queue, now, now, limit - len(found)),
            ).fetchall()
            with self.transaction():
                self.db.executemany(
                    "UPDATE jobs SET owner = ?, attempt = attempt + 1, lease_ms = ? "
                    "WHERE seq = ? AND lease_ms <= ?",
                    [(owner, self.lease_end(), row[1], now) for row in rows],
                )
            found += [self.delivery(owner, row) for row in rows]
        return found


@mutant("DIST-1", "PERF-2", base="sql")
class FreesAllWhenItStarts(SqlDriver):
    """Takes every lease that it finds when it starts for one that a crash has left."""

    async def subscribe(self, queues: Sequence[str]) -> SqlSubscription:
        await self.call(self.recover)
        return await super().subscribe(queues)

    def recover(self) -> None:
        self.db.execute("UPDATE jobs SET lease_ms = 0 WHERE namespace = ?", (self.namespace,))


@mutant("DIST-1", "PERF-2", base="sql")
class IsNamedForItsHost(SqlDriver):
    """Signs its leases with the name of the host: who stops gives back what its neighbours run."""

    async def subscribe(self, queues: Sequence[str]) -> SqlSubscription:
        subscription = await super().subscribe(queues)
        subscription.owner = socket.gethostname()
        return subscription


@mutant("DIST-1", "DUR-10", base="sql")
class DoesNotWaitForTheLock(SqlDriver):
    """Has no busy timeout: what comes while another writes is refused."""

    patience = 0.0


@mutant("CONC-4", "DIST-3", "FAIL-1", base="sql")
class LeasesMoreThanItHandsOut(SqlDriver):
    """Has its LIMIT in Python: the rest of what is due is leased, and handed to nobody."""

    def claim(self, owner: str, queue: str, limit: int) -> list[Delivery]:
        return super().claim(owner, queue, 1_000_000)[:limit]


class _OfBatches(SqlSubscription):
    unsettled = 0

    async def fetch(self, limit: int) -> Fetched:
        if self.unsettled:
            await asyncio.sleep(0)
            return Fetched([])
        fetched = await super().fetch(limit)
        self.unsettled = len(fetched.deliveries)
        return fetched

    async def settle(self, settlements: Sequence[Any]) -> Any:
        foreign = await super().settle(settlements)
        self.unsettled -= len(settlements)
        return foreign


@mutant("CONC-3", "CONC-2", base="sql")
class FetchesBatchByBatch(SqlDriver):
    """Fetches again when all that it has fetched before is settled."""

    async def subscribe(self, queues: Sequence[str]) -> SqlSubscription:
        self.subscription = _OfBatches(self, queues)
        return self.subscription


@mutant("DIST-3", "CONC-2", "DUR-10", base="sql")
class SharesOutByRemainder(SqlDriver):
    """Gives each of `n` workers the rows whose number leaves its remainder, busy or not."""

    schema = SCHEMA + "; CREATE TABLE IF NOT EXISTS workers (namespace TEXT, owner TEXT)"

    async def subscribe(self, queues: Sequence[str]) -> SqlSubscription:
        subscription = await super().subscribe(queues)
        await self.call(self.join_in, subscription.owner)
        return subscription

    def join_in(self, owner: str) -> None:
        self.db.execute("INSERT INTO workers VALUES (?, ?)", (self.namespace, owner))
        mine = "FROM workers AS w WHERE w.namespace = jobs.namespace"
        self.of_queue = (
            f"namespace = ? AND queue = ? AND seq % (SELECT COUNT(*) {mine}) = "
            f"(SELECT COUNT(*) {mine} AND w.owner < '{owner}')"
        )

    def release_all(self, owner: str) -> None:
        self.db.execute("DELETE FROM workers WHERE owner = ?", (owner,))
        super().release_all(owner)


@mutant("REG-4", "FAIL-7", "FAIL-8", "DUR-6", "QUE-2", "DIST-2", base="sql")
class AsksForTheHandlersItHas(Wrapper):
    """`WHERE handler IN (…)`, with a list that it makes when it starts."""

    base = "sql"

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._names: list[str] = []

    def change_handler(self, name: str, handler: Any) -> Any:
        self._names.append(name)
        return handler

    async def start(self) -> None:
        names = ", ".join(f"'{name}'" for name in self._names)
        self.inner._driver.of_queue = (  # type: ignore[attr-defined]
            "namespace = ? AND queue = ? AND IIF(json_valid(CAST(body AS TEXT)), "
            f"json_extract(CAST(body AS TEXT), '$.handler') IN ({names}), 0)"
        )
        await super().start()


@mutant("DIST-5", base="sql")
class ReadsANamespaceAsAPattern(SqlDriver):
    """Finds all that belongs to a namespace by how it begins."""

    of_queue = "namespace LIKE ? || '%' AND queue = ?"


@mutant("DUR-7", base="sql", quick=False)
class ExtendsTenAtATime(SqlDriver):
    """Extends no more leases than fit into one statement, and takes the rest for held."""

    def extend(self, receipts: Sequence[Any]) -> list[bool]:
        return super().extend(receipts[:10]) + [True] * len(receipts[10:])


@mutant("DIST-5", base="sql")
class CountsAllThereIs(SqlDriver):
    """Counts the rows of its tables, which are those of every namespace."""

    def count(self) -> dict[str, QueueCounts]:
        counts: dict[str, QueueCounts] = {}
        others = self.db.execute("SELECT DISTINCT namespace FROM jobs").fetchall()
        own = self.namespace
        for (self.namespace,) in others:
            counts.update(super().count())
        self.namespace = own
        return counts
