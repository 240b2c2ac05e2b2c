"""Slips in the SQL of what becomes of a job: verdicts, leases, dead letters; and in connections."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import msgspec

from offload import Delivery, Failure, Settlement, StoredDeadLetter
from offload.config import Config
from offload_mutants.registry import mutant
from offload_mutants.sql_driver import SqlDriver
from offload_mutants.sql_tables import SCHEMA

# Verdicts of one who has lost the job.


@mutant("DUR-8", base="sql", quick=False)
class FencesByTheLeaseAlone(SqlDriver):
    """Settles what is leased at this moment, by whomever."""

    fence = "seq = ? AND ? IS NOT NULL AND ? > 0 AND lease_ms > 1000 * strftime('%s', 'now')"


@mutant("DUR-8", base="sql", quick=False)
class RetriesWhatIsNotItsOwn(SqlDriver):
    """Looks who has a job before it deletes it; to give it back can do no harm."""

    def retry(self, receipt: Any, due_ms: int) -> bool:
        return self.changes(
            "UPDATE jobs SET owner = NULL, lease_ms = 0, due_ms = ? WHERE seq = ?",
            (due_ms, receipt[0]),
        )


@mutant("DUR-8", base="sql", quick=False)
class BuriesWhatIsNotItsOwn(SqlDriver):
    """Copies the row to the dead letters, and deletes it then if it is still its own."""

    def bury(self, receipt: Any, failure: Failure) -> bool:
        columns = "namespace, queue, id, body"
        self.db.execute(
            f"INSERT INTO dead_letters ({columns}, died_ms, error, traceback, attempts) "
            f"SELECT {columns}, ?, ?, x'', ? FROM jobs WHERE seq = ?",
            (self.now(), self.text(failure.error), failure.attempts, receipt[0]),
        )
        return self.forget(receipt)


@mutant("DUR-8", base="sql", quick=False)
class RenewsWhatItHasLost(SqlDriver):
    """Extends with the statement that leases: whose lease has run out takes the job back."""

    def extend(self, receipts: Sequence[Any]) -> list[bool]:
        statement = "UPDATE jobs SET lease_ms = ?, owner = ?, attempt = ? WHERE seq = ?"
        with self.transaction():
            end = self.lease_end()
            return [
                self.changes(statement, (end, owner, attempt, seq))
                for seq, owner, attempt in receipts
            ]


# Attempts and leases.


@mutant("DUR-6", "DUR-2", "DUR-8", base="sql")
class CountsWhatItSettles(SqlDriver):
    """Counts an attempt when it has ended, which that of a process that dies never does."""

    def delivery(self, owner: str, row: Sequence[Any]) -> Delivery:
        seq, attempt = row[1], row[-1]
        self.db.execute("UPDATE jobs SET attempt = attempt - 1 WHERE seq = ?", (seq,))
        delivery = super().delivery(owner, row)
        return msgspec.structs.replace(delivery, receipt=(seq, owner, attempt - 1))

    def retry(self, receipt: Any, due_ms: int) -> bool:
        was_ours = super().retry(receipt, due_ms)
        if was_ours:
            self.db.execute("UPDATE jobs SET attempt = attempt + 1 WHERE seq = ?", receipt[:1])
        return was_ours

    def release(self, receipt: Any) -> bool:
        statement = f"UPDATE jobs SET owner = NULL, lease_ms = 0 WHERE {self.fence}"
        return self.changes(statement, receipt)

    def release_all(self, owner: str) -> None:
        self.db.execute("UPDATE jobs SET owner = NULL, lease_ms = 0 WHERE owner = ?", (owner,))


@mutant("LIFE-7", base="sql")
class ReleasesAsNew(SqlDriver):
    """Gives a job back as it was stored, with no attempt, whatever runs have failed before."""

    def release(self, receipt: Any) -> bool:
        return self.changes(
            f"UPDATE jobs SET owner = NULL, lease_ms = 0, attempt = 0 WHERE {self.fence}", receipt
        )


@mutant("FAIL-1", base="sql")
class CountsInOneByte(SqlDriver):
    """`TINYINT`: an attempt is never counted beyond 127."""

    def claim(self, owner: str, queue: str, limit: int) -> list[Delivery]:
        self.db.execute("UPDATE jobs SET attempt = 126 WHERE attempt > 126")
        return super().claim(owner, queue, limit)


@mutant("DUR-2", "DUR-1", "DUR-6", "DUR-8", "DUR-10", base="sql")
class LooksForTheDeadWhenItStarts(SqlDriver):
    """Frees the leases that have run out when a worker starts, and not after that."""

    of_queue = "namespace = ? AND queue = ? AND owner IS NULL"

    async def subscribe(self, queues: Sequence[str]) -> Any:
        await self.call(self.recover)
        return await super().subscribe(queues)

    def recover(self) -> None:
        self.db.execute("UPDATE jobs SET owner = NULL WHERE lease_ms <= ?", (self.now(),))


@mutant("DUR-7", base="sql", quick=False)
class ExtendsALeaseThreeTimes(SqlDriver):
    """Takes a job that is still leased after three leases for one that is stuck."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._ends: dict[Any, float] = {}

    def extend(self, receipts: Sequence[Any]) -> list[bool]:
        now, most = time.monotonic(), self.lease.total_seconds()
        young = [each for each in receipts if now < self._ends.setdefault(each, now + most)]
        extended = dict(zip(young, super().extend(young), strict=True))
        return [extended.get(each, True) for each in receipts]


@mutant("DUR-2", "DUR-1", "DUR-6", "DUR-8", base="sql")
class DeletesWhatItFetches(SqlDriver):
    """`DELETE … RETURNING`: only its worker knows a job that runs, and stores it again to retry."""

    def delivery(self, owner: str, row: Sequence[Any]) -> Delivery:
        seq = row[1]
        columns = "seq, namespace, queue, id, body, due_ms, attempt"
        select = self.db.execute(f"SELECT {columns} FROM jobs WHERE seq = ?", (seq,))
        self._rows[seq] = select.fetchone()
        self.db.execute("DELETE FROM jobs WHERE seq = ?", (seq,))
        return super().delivery(owner, row)

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._rows: dict[int, Any] = {}

    def carry_out(self, settlement: Settlement) -> bool:
        seq, owner, _ = settlement.delivery.receipt
        self.db.execute(
            "INSERT INTO jobs (seq, namespace, queue, id, body, due_ms, attempt, owner) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (*self._rows.pop(seq), owner),
        )
        return super().carry_out(settlement)

    def extend(self, receipts: Sequence[Any]) -> list[bool]:
        return [True for _ in receipts]


@mutant("TIME-2", "FAIL-2", base="sql")
class KeepsTheLeaseOfARetry(SqlDriver):
    """Sets the time of the next attempt, which begins when the lease of this one has run out."""

    def retry(self, receipt: Any, due_ms: int) -> bool:
        statement = f"UPDATE jobs SET owner = NULL, due_ms = ? WHERE {self.fence}"
        return self.changes(statement, (due_ms, *receipt))


# What is kept of a failure, and of a job that died.


@mutant("FAIL-3", base="sql")
class HasRoomFor255Characters(SqlDriver):
    """`VARCHAR(255)` for the error and its traceback; what is longer is cut."""

    def text(self, text: str) -> bytes:
        return super().text(text[:255])


@mutant("DEAD-2", base="sql")
class HasRoomFor64Kilobytes(SqlDriver):
    """`LONGBLOB` for a job and `BLOB` for a dead letter, which cuts what is larger."""

    def bury(self, receipt: Any, failure: Failure) -> bool:
        self.db.execute(
            f"UPDATE jobs SET body = SUBSTR(body, 1, 65535) WHERE {self.fence}", receipt
        )
        return super().bury(receipt, failure)


@mutant("DEAD-1", base="sql")
class KeepsTheLastHundredDead(SqlDriver):
    """Trims its dead letters, so that the table doesn't grow."""

    def bury(self, receipt: Any, failure: Failure) -> bool:
        was_ours = super().bury(receipt, failure)
        self.db.execute(
            "DELETE FROM dead_letters WHERE namespace = ? AND place <= (SELECT place FROM "
            "dead_letters WHERE namespace = ? ORDER BY place DESC LIMIT 1 OFFSET 100)",
            (self.namespace, self.namespace),
        )
        return was_ours


@mutant("DUR-1", "FAIL-3", base="sql")
class BuriesWithItsNextLook(SqlDriver):
    """Deletes the job in one transaction, and stores its dead letter in one a second later."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._dead: list[Any] = []

    def bury(self, receipt: Any, failure: Failure) -> bool:
        columns = "namespace, queue, id, body"
        select = self.db.execute(f"SELECT {columns} FROM jobs WHERE {self.fence}", receipt)
        error, traceback = self.text(failure.error), self.text(failure.traceback)
        for row in select.fetchall():
            self._dead.append((*row, self.now(), error, traceback, failure.attempts))
        return self.forget(receipt)

    def write(self) -> None:
        dead, self._dead = self._dead, []
        columns = "namespace, queue, id, body, died_ms, error, traceback, attempts"
        self.db.executemany(
            f"INSERT INTO dead_letters ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", dead
        )

    def fetch(self, owner: str, queues: Sequence[str], limit: int) -> list[Delivery]:
        if self._dead and self._dead[0][4] < self.now() - 1000:
            self.write()
        return super().fetch(owner, queues, limit)

    def letters(self, limit: int, place: int) -> list[StoredDeadLetter]:
        self.write()
        return super().letters(limit, place)

    def letter(self, job_id: str) -> StoredDeadLetter | None:
        self.write()
        return super().letter(job_id)

    def disconnect(self) -> None:
        self.write()
        super().disconnect()


@mutant("DEAD-1", "DEAD-4", base="sql")
class PagesByTheTimeOfDeath(SqlDriver):
    """`WHERE died > ?`: of those that died in one millisecond, a page shows what fits."""

    def letters(self, limit: int, place: int) -> list[StoredDeadLetter]:
        rows = [each for each in super().letters(1 << 31, 0) if each.died_ms > place]
        return [msgspec.structs.replace(each, cursor=str(each.died_ms)) for each in rows[:limit]]


@mutant("DEAD-4", base="sql")
class GivesThePlaceOfTheLastAgain(SqlDriver):
    """Has a key without `AUTOINCREMENT`: when the last letter goes, the next gets its place."""

    schema = SCHEMA.replace("place INTEGER PRIMARY KEY AUTOINCREMENT", "place INTEGER PRIMARY KEY")


@mutant("DEAD-3", base="sql")
class MarksAsDiscarded(SqlDriver):
    """Leaves out of the list what was discarded, and shows it still to those who have its id."""

    def discard(self, ids: Sequence[str]) -> list[str]:
        statement = f"UPDATE dead_letters SET died_ms = -1 WHERE {self.of_letter} AND died_ms > 0"
        return [each for each in ids if self.changes(statement, (self.namespace, each))]

    def letters(self, limit: int, place: int) -> list[StoredDeadLetter]:
        found = [each for each in super().letters(1 << 31, place) if each.died_ms > 0]
        return found[:limit]


# Connections.


@mutant("LIFE-10", base="sql")
class KeepsAConnectionInAPool(SqlDriver):
    """Gives its connection back to a pool of the module when it closes."""

    pool: list[Any] = []  # noqa: RUF012 - one for all

    def disconnect(self) -> None:
        self.pool.append(self.db)


@mutant("LIFE-10", base="sql")
class LeavesItsThread(SqlDriver):
    """Closes the connection, and leaves the thread in which it was to its daemon's end."""

    async def close(self) -> Sequence[str]:
        if self.thread is not None:
            await self.call(self.disconnect)
            self.thread = None
        return ()
