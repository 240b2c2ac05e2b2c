"""Storing, leasing and settling jobs. Plain blocking code, for one thread."""

from __future__ import annotations

from collections.abc import Sequence

from offload import Delivery, Entry, Failure, Fetched, QueueCounts, Settlement, Verdict
from offload_sqlite.database import Database, now_ms
from offload_sqlite.dead_letters import DeadLetterTable
from offload_sqlite.sessions import Sessions

PROMOTE_AT_ONCE = 1000
"""Scheduled jobs that become ready in one transaction, so that none is long."""


class Store:
    """The jobs of one database."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.sessions = Sessions(database)
        self.dead_letters = DeadLetterTable(database, self.sessions)
        self._turn = 0
        job, scheduled = database.job, database.scheduled
        self._insert = f"INSERT INTO {job} (queue, id, due_ms, body) VALUES (?, ?, ?, ?)"
        self._schedule = f"INSERT INTO {scheduled} (queue, id, due_ms, body) VALUES (?, ?, ?, ?)"
        # The fence: a delivery whose session or attempt is over finds no row.
        self._ours = "WHERE seq = ? AND session = ? AND attempt = ?"
        self._forget = f"DELETE FROM {job} {self._ours}"
        self._release = f"UPDATE {job} SET session = 0, attempt = attempt - 1 {self._ours}"
        self._retry = (
            f"INSERT INTO {scheduled} (queue, id, attempt, due_ms, body) "
            f"SELECT queue, id, attempt, ?, body FROM {job} {self._ours}"
        )
        # By the clock, so that no place in their order is ever taken twice.
        place = f"max(?, 1 + (SELECT coalesce(max(seq), 0) FROM {database.dead}))"
        self._bury = (
            f"INSERT INTO {database.dead} "
            "(seq, queue, id, attempts, died_ms, error, traceback, body) "
            f"SELECT {place}, queue, id, ?, ?, ?, ?, body FROM {job} {self._ours}"
        )

    def enqueue(self, entries: Sequence[Entry]) -> None:
        """Store these, in one transaction, and wake who waits for them."""
        database = self.database
        with database.errors():
            with database.transaction():
                now = now_ms()
                ready: list[tuple[str, str, int, bytes]] = []
                later: list[tuple[str, str, int, bytes]] = []
                for entry in entries:
                    # One more, since the millisecond that is now has begun already.
                    due = now + entry.delay_ms + 1 if entry.delay_ms else entry.at_ms or now
                    row = (entry.queue, entry.id, due, entry.body)
                    (later if due > now else ready).append(row)
                database.connection.executemany(self._insert, ready)
                database.connection.executemany(self._schedule, later)
                bells = self.sessions.bells({entry.queue for entry in entries})
            self.sessions.ring(bells)

    # -- leasing ---------------------------------------------------------------

    def fetch(self, session: int, queues: Sequence[str], limit: int) -> Fetched:
        """Lease up to `limit` jobs that are due. Takes no lock when there are none."""
        database = self.database
        with database.errors():
            self.sessions.reap_now_and_then(session)
            now = now_ms()
            next_due = self._next_due()
            if next_due is not None and next_due <= now:
                with database.transaction():
                    self._promote(now)
                next_due = self._next_due()
            ready = [queue for queue in queues if self._has_ready(queue)]
            deliveries: list[Delivery] = []
            if ready:
                self._turn += 1
                first = self._turn % len(ready)
                with database.transaction():
                    deliveries = self._lease(session, ready[first:] + ready[:first], limit)
            if deliveries or next_due is None:
                return Fetched(deliveries)
            return Fetched(deliveries, max(0, next_due - now_ms()))

    def _has_ready(self, queue: str) -> bool:
        query = f"SELECT 1 FROM {self.database.job} WHERE session = 0 AND queue = ? LIMIT 1"
        return self.database.connection.execute(query, (queue,)).fetchone() is not None

    def _next_due(self) -> int | None:
        query = f"SELECT min(due_ms) FROM {self.database.scheduled}"
        due: int | None = self.database.connection.execute(query).fetchone()[0]
        return due

    def _promote(self, now: int) -> None:
        connection, scheduled = self.database.connection, self.database.scheduled
        due = f"FROM {scheduled} WHERE due_ms <= ? ORDER BY due_ms, seq LIMIT {PROMOTE_AT_ONCE}"
        connection.execute(
            f"INSERT INTO {self.database.job} (queue, id, attempt, due_ms, body) "
            f"SELECT queue, id, attempt, due_ms, body {due}",
            (now,),
        )
        connection.execute(f"DELETE FROM {scheduled} WHERE seq IN (SELECT seq {due})", (now,))

    def _lease(self, session: int, queues: Sequence[str], limit: int) -> list[Delivery]:
        """Take from each queue its share, then from those that have more what is left."""
        deliveries: list[Delivery] = []
        left = list(queues)
        while left and len(deliveries) < limit:
            share = max(1, (limit - len(deliveries)) // len(left))
            for queue in list(left):
                want = min(share, limit - len(deliveries))
                taken = self._lease_from(session, queue, want) if want else []
                deliveries += taken
                if len(taken) < want:
                    left.remove(queue)
        return deliveries

    def _lease_from(self, session: int, queue: str, limit: int) -> list[Delivery]:
        job = self.database.job
        rows = self.database.connection.execute(
            f"UPDATE {job} SET session = ?, attempt = attempt + 1 WHERE seq IN "
            f"(SELECT seq FROM {job} WHERE session = 0 AND queue = ? ORDER BY seq LIMIT ?) "
            "RETURNING seq, id, attempt, due_ms, body",
            (session, queue, limit),
        ).fetchall()
        rows.sort()  # by seq: RETURNING promises no order
        return [
            Delivery(job_id, queue, body, attempt, due, (seq, session, attempt))
            for seq, job_id, attempt, due, body in rows
        ]

    # -- settling --------------------------------------------------------------

    def settle(self, settlements: Sequence[Settlement]) -> list[Delivery]:
        """Carry out the verdicts in one transaction; return what was no longer ours."""
        connection = self.database.connection
        acknowledged = [s.delivery.receipt for s in settlements if s.verdict is Verdict.ACKNOWLEDGE]
        others = [s for s in settlements if s.verdict is not Verdict.ACKNOWLEDGE]
        with self.database.errors():
            with self.database.transaction():
                forgotten = connection.executemany(self._forget, acknowledged).rowcount
                if forgotten < len(acknowledged):
                    # Some are not ours, and only one by one it shows which.
                    connection.execute("ROLLBACK")
                    connection.execute("BEGIN IMMEDIATE")
                    others = list(settlements)
                foreign = [s.delivery for s in others if not self._settle_one(s)]
            if others:
                self.sessions.ring()
        return foreign

    def _settle_one(self, settlement: Settlement) -> bool:
        receipt = settlement.delivery.receipt
        if settlement.verdict is Verdict.ACKNOWLEDGE:
            return self._affects_one(self._forget, receipt)
        if settlement.verdict is Verdict.RELEASE:
            return self._affects_one(self._release, receipt)
        if settlement.verdict is Verdict.RETRY:
            due = now_ms() + settlement.delay_ms + 1
            copied = self._affects_one(self._retry, (due, *receipt))
        else:
            failure = settlement.failure or Failure("")
            now = now_ms()
            reason = (now * 1000, failure.attempts, now, failure.error, failure.traceback)
            copied = self._affects_one(self._bury, (*reason, *receipt))
        return copied and self._affects_one(self._forget, receipt)

    def _affects_one(self, statement: str, values: tuple[object, ...]) -> bool:
        return self.database.connection.execute(statement, values).rowcount == 1

    # -- looking ---------------------------------------------------------------

    def counts(self) -> dict[str, QueueCounts]:
        """Of every queue that holds a job. Counts the entries of an index, one by one."""
        database = self.database
        queries = {
            "waiting": f"FROM {database.job} WHERE session = 0",
            "running": f"FROM {database.job} WHERE session > 0",
            "scheduled": f"FROM {database.scheduled}",
            "dead": f"FROM {database.dead}",
        }
        found: dict[str, dict[str, int]] = {}
        # One transaction, so that a job that moves meanwhile is counted once.
        with database.errors(), database.snapshot():
            for state, source in queries.items():
                rows = database.connection.execute(
                    f"SELECT queue, count(*) {source} GROUP BY queue"
                )
                for queue, number in rows:
                    found.setdefault(queue, {})[state] = number
        return {queue: QueueCounts(**by_state) for queue, by_state in sorted(found.items())}
