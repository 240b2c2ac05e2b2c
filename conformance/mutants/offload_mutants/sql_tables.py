"""The statements of `sql_driver`, as they should be: two tables, in one file.

Each is a method, or a part of one, that a variant may write in another way.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from offload import Delivery, Entry, Failure, QueueCounts, Settlement, StoredDeadLetter, Verdict

SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, namespace TEXT NOT NULL, queue TEXT NOT NULL,
    id TEXT NOT NULL, body BLOB NOT NULL, due_ms INTEGER NOT NULL,
    attempt INTEGER NOT NULL DEFAULT 0, owner TEXT, lease_ms INTEGER NOT NULL DEFAULT 0);
CREATE INDEX IF NOT EXISTS jobs_due ON jobs (namespace, queue, due_ms, seq);
CREATE TABLE IF NOT EXISTS dead_letters (
    place INTEGER PRIMARY KEY AUTOINCREMENT, namespace TEXT NOT NULL, queue TEXT NOT NULL,
    id TEXT NOT NULL, body BLOB NOT NULL, died_ms INTEGER NOT NULL,
    error BLOB NOT NULL, traceback BLOB NOT NULL, attempts INTEGER NOT NULL)
"""
"""A job is free when its lease has ended; one that was never leased has a lease until 1970."""


def to_letter(row: Sequence[Any]) -> StoredDeadLetter:
    """A dead letter, from its columns."""
    place, job_id, queue_, body, died_ms, error, traceback, attempts = row
    texts = (each.decode("utf-8", "surrogatepass") for each in (error, traceback))
    failure = Failure(next(texts), next(texts), attempts)
    return StoredDeadLetter(job_id, queue_, body, died_ms, failure, str(place))


class SqlTables:
    """Jobs and dead letters of one namespace. All of it runs in the thread of its connection."""

    lease = timedelta(seconds=3)
    patience: float = 5.0
    """Seconds to wait for the lock of the file."""
    schema = SCHEMA
    of_queue = "namespace = ? AND queue = ?"
    of_letter = "namespace = ? AND id = ?"
    order = "due_ms, seq"
    fence = "seq = ? AND owner = ? AND attempt = ?"
    """Holds while no other run of the job has begun, and it wasn't settled."""

    def __init__(self, path: Path, namespace: str) -> None:
        self.path = path
        self.namespace = namespace
        self._local = threading.local()
        self._turn = 0

    @property
    def db(self) -> sqlite3.Connection:
        connection: sqlite3.Connection = self._local.db
        return connection

    def connect(self) -> None:
        self._local.db = sqlite3.connect(self.path, timeout=self.patience, isolation_level=None)
        deadline = time.monotonic() + self.patience
        while True:  # a change of the journal's mode doesn't wait for the lock
            try:
                self.db.execute("PRAGMA journal_mode = WAL")
                break
            except sqlite3.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
        self.make_tables()

    def make_tables(self) -> None:
        with self.transaction():
            for statement in self.schema.split(";"):
                self.db.execute(statement)

    def disconnect(self) -> None:
        if hasattr(self._local, "db"):
            self.db.close()
            del self._local.db

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        with self.db:  # commits, or rolls back
            self.db.execute("BEGIN IMMEDIATE")
            yield

    def changes(self, statement: str, values: Sequence[Any]) -> bool:
        """Execute this, and tell whether there was a row for it."""
        return self.db.execute(statement, values).rowcount > 0

    def now(self) -> int:
        """The clock of the backend, which is that of the host, in whole milliseconds."""
        return time.time_ns() // 1_000_000

    def due(self, entry: Entry, now: int) -> int:
        if entry.at_ms is not None:
            return max(entry.at_ms, now)
        return self.later(now, entry.delay_ms)

    def later(self, now: int, delay_ms: int) -> int:
        """One more, since the millisecond that is now has begun already."""
        return now + delay_ms + 1 if delay_ms else now

    def store(self, entries: Sequence[Entry]) -> None:
        with self.transaction():
            now = self.now()
            self.db.executemany(
                "INSERT INTO jobs (namespace, queue, id, body, due_ms) VALUES (?, ?, ?, ?, ?)",
                [(self.namespace, e.queue, e.id, e.body, self.due(e, now)) for e in entries],
            )

    def fetch(self, owner: str, queues: Sequence[str], limit: int) -> list[Delivery]:
        """Lease from one queue after another, each time beginning with another one."""
        with_jobs = [each for each in queues if self.has_work(each)]
        if not with_jobs or limit < 1:
            return []
        self._turn += 1
        first = self._turn % len(with_jobs)
        found: list[Delivery] = []
        with self.transaction():
            for left, name in zip(
                range(len(with_jobs), 0, -1), with_jobs[first:] + with_jobs[:first], strict=True
            ):
                share = -(-(limit - len(found)) // left)
                found += self.claim(owner, name, share)
        return found

    def has_work(self, queue: str) -> bool:
        """Whether something is due: a look takes no lock."""
        now = self.now()
        return bool(
            self.db.execute(
                f"SELECT 1 FROM jobs WHERE {self.of_queue} AND due_ms <= ? AND lease_ms <= ? "
                "LIMIT 1",
                (self.namespace, queue, now, now),
            ).fetchone()
        )

    def claim(self, owner: str, queue: str, limit: int) -> list[Delivery]:
        now = self.now()
        rows = self.db.execute(
            "UPDATE jobs SET owner = ?, attempt = attempt + 1, lease_ms = ? WHERE seq IN ("
            f"SELECT seq FROM jobs WHERE {self.of_queue} AND due_ms <= ? AND lease_ms <= ? "
            f"ORDER BY {self.order} LIMIT ?) "
            "RETURNING due_ms, seq, id, queue, body, attempt",
            (owner, self.lease_end(), self.namespace, queue, now, now, limit),
        ).fetchall()
        return [self.delivery(owner, row) for row in sorted(rows)]  # RETURNING has no order

    def lease_end(self) -> int:
        return self.now() + self.lease // timedelta(milliseconds=1)

    def delivery(self, owner: str, row: Sequence[Any]) -> Delivery:
        due_ms, seq, job_id, queue, body, attempt = row
        return Delivery(job_id, queue, body, attempt, due_ms, (seq, owner, attempt))

    def settle(self, settlements: Sequence[Settlement]) -> list[Delivery]:
        with self.transaction():
            return [each.delivery for each in settlements if not self.carry_out(each)]

    def carry_out(self, settlement: Settlement) -> bool:
        """Do what the verdict says, and tell whether the job was still ours."""
        receipt = settlement.delivery.receipt
        match settlement.verdict:
            case Verdict.ACKNOWLEDGE:
                return self.forget(receipt)
            case Verdict.RETRY:
                return self.retry(receipt, self.later(self.now(), settlement.delay_ms))
            case Verdict.DEAD_LETTER:
                return self.bury(receipt, settlement.failure or Failure(""))
            case Verdict.RELEASE:
                return self.release(receipt)

    def forget(self, receipt: Any) -> bool:
        return self.changes(f"DELETE FROM jobs WHERE {self.fence}", receipt)

    def retry(self, receipt: Any, due_ms: int) -> bool:
        statement = f"UPDATE jobs SET owner = NULL, lease_ms = 0, due_ms = ? WHERE {self.fence}"
        return self.changes(statement, (due_ms, *receipt))

    def text(self, text: str) -> bytes:
        """Any text of Python's, lone surrogates included, which a column of text doesn't take."""
        return text.encode("utf-8", "surrogatepass")

    def bury(self, receipt: Any, failure: Failure) -> bool:
        self.db.execute(
            "INSERT INTO dead_letters (namespace, queue, id, body, died_ms, error, traceback, "
            "attempts) SELECT namespace, queue, id, body, ?, ?, ?, ? FROM jobs "
            f"WHERE {self.fence}",
            (
                self.now(),
                self.text(failure.error),
                self.text(failure.traceback),
                failure.attempts,
                *receipt,
            ),
        )
        return self.forget(receipt)

    def release(self, receipt: Any) -> bool:
        """Its place in the order is as it was, so it is the first again."""
        return self.changes(
            f"UPDATE jobs SET owner = NULL, lease_ms = 0, attempt = attempt - 1 WHERE {self.fence}",
            receipt,
        )

    def release_all(self, owner: str) -> None:
        self.db.execute(
            "UPDATE jobs SET owner = NULL, lease_ms = 0, attempt = attempt - 1 WHERE owner = ?",
            (owner,),
        )

    def extend(self, receipts: Sequence[Any]) -> list[bool]:
        """Hold each for longer, and tell which are still ours."""
        statement = f"UPDATE jobs SET lease_ms = ? WHERE {self.fence}"
        with self.transaction():
            end = self.lease_end()
            return [self.changes(statement, (end, *each)) for each in receipts]

    def count(self) -> dict[str, QueueCounts]:
        now = self.now()
        counts: defaultdict[str, dict[str, int]] = defaultdict(dict)
        for name, state, number in self.db.execute(
            "SELECT queue, CASE WHEN lease_ms > ? THEN 'running' WHEN due_ms > ? THEN 'scheduled' "
            "ELSE 'waiting' END AS state, COUNT(*) FROM jobs WHERE namespace = ? "
            "GROUP BY queue, state UNION ALL SELECT queue, 'dead', COUNT(*) FROM dead_letters "
            "WHERE namespace = ? GROUP BY queue",
            (now, now, self.namespace, self.namespace),
        ):
            counts[name][state] = number
        return {name: QueueCounts(**by_state) for name, by_state in sorted(counts.items())}

    columns = "place, id, queue, body, died_ms, error, traceback, attempts"

    def letters(self, limit: int, place: int) -> list[StoredDeadLetter]:
        return [
            to_letter(row)
            for row in self.db.execute(
                f"SELECT {self.columns} FROM dead_letters WHERE namespace = ? AND place > ? "
                "ORDER BY place LIMIT ?",
                (self.namespace, place, max(0, limit)),
            )
        ]

    def letter(self, job_id: str) -> StoredDeadLetter | None:
        row = self.db.execute(
            f"SELECT {self.columns} FROM dead_letters WHERE {self.of_letter}",
            (self.namespace, job_id),
        ).fetchone()
        return row and to_letter(row)

    def requeue(self, ids: Sequence[str]) -> list[str]:
        with self.transaction():
            return [each for each in ids if self.requeue_one(each)]

    def requeue_one(self, job_id: str) -> bool:
        self.db.execute(
            "INSERT INTO jobs (namespace, queue, id, body, due_ms) SELECT namespace, queue, id, "
            f"body, ? FROM dead_letters WHERE {self.of_letter}",
            (self.now(), self.namespace, job_id),
        )
        return self.discard_one(job_id)

    def discard(self, ids: Sequence[str]) -> list[str]:
        with self.transaction():
            return [each for each in ids if self.discard_one(each)]

    def discard_one(self, job_id: str) -> bool:
        return self.changes(
            f"DELETE FROM dead_letters WHERE {self.of_letter}", (self.namespace, job_id)
        )
