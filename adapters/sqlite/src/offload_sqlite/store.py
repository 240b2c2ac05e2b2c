"""Every statement that Offload sends to SQLite. Plain blocking code, for one thread."""

from __future__ import annotations

import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from offload import (
    BackendUnavailableError,
    Delivery,
    Entry,
    Failure,
    Fetched,
    QueueCounts,
    Settlement,
    StoredDeadLetter,
    Verdict,
)
from offload_sqlite import bell, schema
from offload_sqlite.bell import Life
from offload_sqlite.errors import translate

PROMOTE_AT_ONCE = 1000
"""Scheduled jobs that become ready in one transaction, so that none is long."""
REAP_SECONDS = 1.0
"""How often a worker looks for others that have died."""


def now_ms() -> int:
    """The clock that due times and leases go by: the host's."""
    return time.time_ns() // 1_000_000


def _end_of(lease: timedelta) -> int:
    return now_ms() + lease // timedelta(milliseconds=1)


def connect(path: Path, busy_timeout: timedelta) -> sqlite3.Connection:
    """A connection that leaves transactions to us."""
    return sqlite3.connect(
        path,
        timeout=busy_timeout.total_seconds(),
        isolation_level=None,
        check_same_thread=False,
        cached_statements=64,
    )


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All of it or nothing, with the right to write from its beginning."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


class Store:
    """One namespace of one database file."""

    def __init__(
        self, path: Path, namespace: str, synchronous: str, busy_timeout: timedelta
    ) -> None:
        self.path = path
        self._opened: sqlite3.Connection | None = None
        self._namespace = namespace
        self._synchronous = synchronous
        self._busy_timeout = busy_timeout
        self._turn = 0
        self._next_reaping = 0.0
        job, scheduled, dead, worker = (
            f'"{namespace}_{table}"' for table in ("job", "scheduled", "dead", "worker")
        )
        self._job, self._scheduled, self._dead, self._worker = job, scheduled, dead, worker
        self._insert = f"INSERT INTO {job} (queue, id, due_ms, body) VALUES (?, ?, ?, ?)"
        self._schedule = f"INSERT INTO {scheduled} (queue, id, due_ms, body) VALUES (?, ?, ?, ?)"
        self._mine = "WHERE seq = ? AND session = ? AND attempt = ?"
        self._forget = f"DELETE FROM {job} {self._mine}"

    def open(self) -> None:
        """Open the file, and make it and its tables if need be."""
        with self._translated():
            self._opened = connect(self.path, self._busy_timeout)
            self._enter_wal()
            self._connection.execute(f"PRAGMA synchronous = {self._synchronous}")
            with transaction(self._connection):
                schema.create(self._connection, self._namespace)

    def _enter_wal(self) -> None:
        """Turn on the write-ahead log, which stays on in the file.

        SQLite doesn't wait for a lock here, so processes that open a new file
        at the same time must take turns by themselves.
        """
        deadline = time.monotonic() + self._busy_timeout.total_seconds()
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as error:
                busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
                if not busy or time.monotonic() > deadline:
                    raise
                time.sleep(0.005)
            else:
                return

    def close(self) -> None:
        """Close the file, if it is open."""
        if self._opened is not None:
            with self._translated():
                self._opened.close()

    @property
    def _connection(self) -> sqlite3.Connection:
        if self._opened is None:
            raise BackendUnavailableError(f"{self.path} is not open")
        return self._opened

    # -- performing ----------------------------------------------------------

    def enqueue(self, entries: Sequence[Entry]) -> None:
        """Store these, in one transaction, and wake who waits for them."""
        with self._translated():
            with transaction(self._connection):
                now = now_ms()
                ready: list[tuple[str, str, int, bytes]] = []
                later: list[tuple[str, str, int, bytes]] = []
                for entry in entries:
                    # One more, since the millisecond that is now has begun already.
                    due = now + entry.delay_ms + 1 if entry.delay_ms else entry.at_ms or now
                    row = (entry.queue, entry.id, due, entry.body)
                    (later if due > now else ready).append(row)
                self._connection.executemany(self._insert, ready)
                self._connection.executemany(self._schedule, later)
                bells = self._bells({entry.queue for entry in entries})
            for name in bells:
                bell.ring(self.path.with_name(name))

    def _bells(self, queues: set[str] | None = None) -> list[str]:
        """The bells of the workers that consume any of these queues; of all, if None."""
        rows = self._connection.execute(f"SELECT bell, queues FROM {self._worker} WHERE bell != ''")
        return [
            name
            for name, consumed in rows
            if queues is None or not queues.isdisjoint(consumed.split(","))
        ]

    def _ring_all(self) -> None:
        for name in self._bells():
            bell.ring(self.path.with_name(name))

    # -- consuming -----------------------------------------------------------

    def register_worker(
        self, queues: Sequence[str], make_bell: Callable[[], str], lease: timedelta
    ) -> int:
        """A new session, whose leases begin now."""
        session = secrets.randbits(62) + 1
        with self._translated(), transaction(self._connection):
            self._connection.execute(
                f"INSERT INTO {self._worker} VALUES (?, ?, ?, ?)",
                (session, ",".join(queues), make_bell(), _end_of(lease)),
            )
        return session

    def extend_worker(self, connection: sqlite3.Connection, session: int, lease: timedelta) -> bool:
        """Hold the leases of a session for longer; False when it was taken for dead.

        On a connection of the caller's, from any thread.
        """
        return (
            connection.execute(
                f"UPDATE {self._worker} SET expires_ms = ? WHERE session = ?",
                (_end_of(lease), session),
            ).rowcount
            == 1
        )

    def remove_worker(self, session: int) -> None:
        """End a session. What it still has leased goes back at once, as if never taken."""
        with self._translated():
            with transaction(self._connection):
                returned = self._connection.execute(
                    f"UPDATE {self._job} SET session = 0, attempt = attempt - 1 WHERE session = ?",
                    (session,),
                ).rowcount
                self._connection.execute(
                    f"DELETE FROM {self._worker} WHERE session = ?", (session,)
                )
            if returned:
                self._ring_all()

    def is_registered(self, session: int) -> bool:
        """Whether the session still holds its leases: nobody took it for dead."""
        with self._translated():
            row = self._connection.execute(
                f"SELECT 1 FROM {self._worker} WHERE session = ?", (session,)
            ).fetchone()
        return row is not None

    def fetch(self, session: int, queues: Sequence[str], limit: int) -> Fetched:
        """Lease up to `limit` jobs that are due. Takes no lock when there are none."""
        with self._translated():
            if time.monotonic() >= self._next_reaping:
                self._reap(session)
            now = now_ms()
            next_due = self._next_due()
            if next_due is not None and next_due <= now:
                with transaction(self._connection):
                    self._promote(now)
                next_due = self._next_due()
            ready = [queue for queue in queues if self._has_ready(queue)]
            deliveries: list[Delivery] = []
            if ready:
                self._turn += 1
                first = self._turn % len(ready)
                with transaction(self._connection):
                    deliveries = self._lease(session, ready[first:] + ready[:first], limit)
            if deliveries or next_due is None:
                return Fetched(deliveries)
            return Fetched(deliveries, max(0, next_due - now_ms()))

    def _has_ready(self, queue: str) -> bool:
        query = f"SELECT 1 FROM {self._job} WHERE session = 0 AND queue = ? LIMIT 1"
        return self._connection.execute(query, (queue,)).fetchone() is not None

    def _next_due(self) -> int | None:
        due: int | None
        (due,) = self._connection.execute(f"SELECT min(due_ms) FROM {self._scheduled}").fetchone()
        return due

    def _promote(self, now: int) -> None:
        due = (
            f"FROM {self._scheduled} WHERE due_ms <= ? ORDER BY due_ms, seq LIMIT {PROMOTE_AT_ONCE}"
        )
        self._connection.execute(
            f"INSERT INTO {self._job} (queue, id, attempt, due_ms, body) "
            f"SELECT queue, id, attempt, due_ms, body {due}",
            (now,),
        )
        self._connection.execute(
            f"DELETE FROM {self._scheduled} WHERE seq IN (SELECT seq {due})", (now,)
        )

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
        rows = self._connection.execute(
            f"UPDATE {self._job} SET session = ?, attempt = attempt + 1 WHERE seq IN "
            f"(SELECT seq FROM {self._job} WHERE session = 0 AND queue = ? ORDER BY seq LIMIT ?) "
            "RETURNING seq, id, attempt, due_ms, body",
            (session, queue, limit),
        ).fetchall()
        rows.sort()  # by seq: RETURNING promises no order
        return [
            Delivery(job_id, queue, body, attempt, due, (seq, session, attempt))
            for seq, job_id, attempt, due, body in rows
        ]

    # -- settling ------------------------------------------------------------

    def settle(self, settlements: Sequence[Settlement]) -> list[Delivery]:
        """Carry out the verdicts in one transaction; return what was no longer ours."""
        with self._translated():
            acknowledged = [
                s.delivery.receipt for s in settlements if s.verdict is Verdict.ACKNOWLEDGE
            ]
            others = [s for s in settlements if s.verdict is not Verdict.ACKNOWLEDGE]
            with transaction(self._connection):
                cursor = self._connection.executemany(self._forget, acknowledged)
                if cursor.rowcount < len(acknowledged):
                    # Some are not ours, and only one by one it shows which.
                    self._connection.execute("ROLLBACK")
                    self._connection.execute("BEGIN IMMEDIATE")
                    others = list(settlements)
                foreign = [s.delivery for s in others if not self._settle_one(s)]
            if others:
                self._ring_all()
        return foreign

    def _settle_one(self, settlement: Settlement) -> bool:
        receipt = settlement.delivery.receipt
        if settlement.verdict is Verdict.ACKNOWLEDGE:
            statement, values = self._forget, receipt
        elif settlement.verdict is Verdict.RELEASE:
            statement = f"UPDATE {self._job} SET session = 0, attempt = attempt - 1 {self._mine}"
            values = receipt
        elif settlement.verdict is Verdict.RETRY:
            statement = (
                f"INSERT INTO {self._scheduled} (queue, id, attempt, due_ms, body) "
                f"SELECT queue, id, attempt, ?, body FROM {self._job} {self._mine}"
            )
            values = (now_ms() + settlement.delay_ms + 1, *receipt)
        else:
            failure = settlement.failure or Failure("")
            statement = (
                f"INSERT INTO {self._dead} (queue, id, attempt, died_ms, error, traceback, body) "
                f"SELECT queue, id, attempt, ?, ?, ?, body FROM {self._job} {self._mine}"
            )
            values = (now_ms(), failure.error, failure.traceback, *receipt)
        done = self._connection.execute(statement, values).rowcount == 1
        if done and settlement.verdict in (Verdict.RETRY, Verdict.DEAD_LETTER):
            self._connection.execute(self._forget, receipt)
        return done

    # -- recovery ------------------------------------------------------------

    def _reap(self, own_session: int) -> None:
        """Give back what dead workers had leased: its attempt counts, and its place is kept."""
        self._next_reaping = time.monotonic() + REAP_SECONDS
        suspects = self._dead_workers(own_session)
        if not suspects:
            return
        with transaction(self._connection):
            # Asked again now that nobody else can write: a worker may have come back.
            for session, bell_name, killed in self._dead_workers(own_session):
                self._connection.execute(
                    f"UPDATE {self._job} SET session = 0 WHERE session = ?", (session,)
                )
                self._connection.execute(
                    f"DELETE FROM {self._worker} WHERE session = ?", (session,)
                )
                if killed:
                    self.path.with_name(bell_name).unlink(missing_ok=True)
        self._ring_all()

    def _dead_workers(self, own_session: int) -> list[tuple[int, str, bool]]:
        rows = self._connection.execute(
            f"SELECT session, bell, expires_ms FROM {self._worker} WHERE session != ?",
            (own_session,),
        ).fetchall()
        dead = []
        for session, name, expires in rows:
            killed = bool(name) and bell.ask(self.path.with_name(name)) is Life.DEAD
            if killed or expires < now_ms():
                dead.append((session, name, killed))
        return dead

    # -- looking -------------------------------------------------------------

    def counts(self) -> dict[str, QueueCounts]:
        """Of every queue that holds a job. Counts the entries of an index, one by one."""
        queries = {
            "waiting": f"SELECT queue, count(*) FROM {self._job} WHERE session = 0 GROUP BY queue",
            "running": f"SELECT queue, count(*) FROM {self._job} WHERE session > 0 GROUP BY queue",
            "scheduled": f"SELECT queue, count(*) FROM {self._scheduled} GROUP BY queue",
            "dead": f"SELECT queue, count(*) FROM {self._dead} GROUP BY queue",
        }
        found: dict[str, dict[str, int]] = {}
        with self._translated():
            for state, query in queries.items():
                for queue, number in self._connection.execute(query):
                    found.setdefault(queue, {})[state] = number
        return {queue: QueueCounts(**by_state) for queue, by_state in sorted(found.items())}

    def list_dead(self, limit: int, after: str | None) -> list[StoredDeadLetter]:
        """A page of dead letters, the oldest first."""
        return self._select_dead(
            f"WHERE seq > coalesce((SELECT seq FROM {self._dead} WHERE id = ?), 0) "
            "ORDER BY seq LIMIT ?",
            (after, limit),
        )

    def show_dead(self, job_id: str) -> StoredDeadLetter | None:
        """The dead letter with this id."""
        found = self._select_dead("WHERE id = ?", (job_id,))
        return found[0] if found else None

    def _select_dead(self, where: str, values: tuple[object, ...]) -> list[StoredDeadLetter]:
        with self._translated():
            rows = self._connection.execute(
                "SELECT id, queue, body, attempt, died_ms, error, traceback "
                f"FROM {self._dead} {where}",
                values,
            ).fetchall()
        return [
            StoredDeadLetter(job_id, queue, body, attempt, died, Failure(error, traceback))
            for job_id, queue, body, attempt, died, error, traceback in rows
        ]

    def requeue_dead(self, ids: Sequence[str]) -> list[str]:
        """Move dead letters back to the ends of their queues."""
        move = (
            f"INSERT INTO {self._job} (queue, id, due_ms, body) "
            f"SELECT queue, id, ?, body FROM {self._dead} WHERE id = ?"
        )
        with self._translated():
            with transaction(self._connection):
                moved = [
                    job_id
                    for job_id in dict.fromkeys(ids)
                    if self._connection.execute(move, (now_ms(), job_id)).rowcount == 1
                    and self._delete_dead(job_id)
                ]
            self._ring_all()
        return moved

    def discard_dead(self, ids: Sequence[str]) -> list[str]:
        """Delete dead letters."""
        with self._translated(), transaction(self._connection):
            return [job_id for job_id in ids if self._delete_dead(job_id)]

    def _delete_dead(self, job_id: str) -> bool:
        delete = f"DELETE FROM {self._dead} WHERE id = ?"
        return self._connection.execute(delete, (job_id,)).rowcount == 1

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise translate(error, self.path) from error
