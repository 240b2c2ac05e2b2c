"""Storing, leasing and settling jobs. Plain blocking code, for one thread."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

import msgspec

from offload import (
    BackendError,
    BackendUnavailableError,
    Delivery,
    Entry,
    Failure,
    Fetched,
    QueueCounts,
    Settlement,
    Verdict,
)
from offload_sqlite.database import Database, now_ms
from offload_sqlite.dead_letters import DeadLetterTable
from offload_sqlite.errors import AnyRowError, IgnoredError, UndoneError, concerns_one_row
from offload_sqlite.intake import Intake
from offload_sqlite.places import Places
from offload_sqlite.quarantine import Quarantine, next_place
from offload_sqlite.rows import LATEST_MS, MOST_ATTEMPTS, LeasedRows, any_text, shown
from offload_sqlite.sessions import Sessions

log = logging.getLogger("offload")

PROMOTE_AT_ONCE = 1000
"""Scheduled jobs that become ready in one transaction, so that none is long."""
SHORT_ERROR = 200
"""How many characters of an error are kept where all of it can't be stored."""
_ACKNOWLEDGE = Verdict.ACKNOWLEDGE  # looked up once, not for each job


class Store:
    """The jobs of one database."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.sessions = Sessions(database)
        self._places = Places(database)
        self._intake = Intake(database, self.sessions, self._places)
        self.dead_letters = DeadLetterTable(database, self.sessions, self._places)
        self._quarantine = Quarantine(database)
        self._turn = 0
        self._told: dict[str, str] = {}
        self._first: dict[str, tuple[int, int, int]] = {}
        """The first receipt of the last fetch from each queue."""
        job, scheduled = database.job, database.scheduled
        # The fence: a delivery whose session or attempt is over finds no row.
        self._ours = "WHERE seq = ? AND session = ? AND attempt = ?"
        self._forget = f"DELETE FROM {job} {self._ours}"
        self._release = f"UPDATE {job} SET session = 0, attempt = attempt - 1 {self._ours}"
        self._retry = (
            f"INSERT INTO {scheduled} (queue, id, attempt, due_ms, body) "
            f"SELECT queue, id, attempt, ?, body FROM {job} {self._ours}"
        )
        # Two rows may have one id: another program wrote one, or a perform was repeated.
        own_id = (
            f"CASE WHEN EXISTS (SELECT 1 FROM {database.dead} AS d WHERE d.id = {job}.id) "
            "THEN id || '~' || lower(hex(randomblob(4))) ELSE id END"
        )
        self._bury = (
            f"INSERT INTO {database.dead} "
            "(seq, queue, id, attempts, died_ms, error, traceback, body) "
            f"SELECT {next_place(database.dead)}, queue, {own_id}, ?, ?, ?, ?, body "
            f"FROM {job} {self._ours}"
        )

    def enqueue(self, entries: Sequence[Entry]) -> None:
        """Store these, in one transaction, and wake who waits for them."""
        database = self.database
        with database.errors():
            bells = self._intake.store(entries)
            if database.is_moved():
                raise BackendUnavailableError(
                    f"{database.path} was removed or replaced meanwhile", maybe_stored=True
                )
            self.sessions.ring(bells)

    # -- leasing ---------------------------------------------------------------

    def fetch(self, session: int, queues: Sequence[str], limit: int) -> Fetched:
        """Lease up to `limit` jobs that are due. Takes no lock when there are none.

        Raises:
            SessionLostError: the session was taken for dead.
        """
        database = self.database
        with database.errors():
            if self.sessions.reap_now_and_then(session):
                self._quarantine.look_again()
                self._quarantine.put_scheduled_aside()
            now = now_ms()
            next_due = self._next_due()
            if next_due is not None and next_due <= now:
                self._promote_if_possible(now)
                next_due = self._next_due()
            ready = [queue for queue in queues if self._has_ready(queue)]
            deliveries: list[Delivery] = []
            if ready:
                self._turn += 1
                first = self._turn % len(ready)
                deliveries = self._lease(session, ready[first:] + ready[:first], limit)
            if deliveries or next_due is None:
                return Fetched(deliveries)
            return Fetched(deliveries, max(0, int(next_due) - now_ms()))

    def _has_ready(self, queue: str) -> bool:
        job = self.database.job
        query = (
            f"SELECT 1 FROM {job} WHERE session = 0 AND queue = ? "
            f"AND {self._quarantine.free_of(job)} LIMIT 1"
        )
        return self.database.connection.execute(query, (queue,)).fetchone() is not None

    def _next_due(self) -> float | None:
        scheduled = self.database.scheduled
        query = (
            f"SELECT min(due_ms) FROM {scheduled} WHERE due_ms <= {LATEST_MS} "
            f"AND {self._quarantine.free_of(scheduled)}"
        )
        due: float | None = self.database.connection.execute(query).fetchone()[0]
        return due

    def _promote_if_possible(self, now: int) -> None:
        """What is ready must not wait for what another program keeps from becoming so."""
        try:
            self._promote(now)
        except AnyRowError as error:
            self._tell("what is due can't become ready", error)

    def _tell(self, what: str, error: AnyRowError) -> None:
        """Log what is in the way, unless the same was told last."""
        if self._told.get(what) != str(error):
            self._told[what] = str(error)
            log.error("%s: %s", what, error)

    def _promote(self, now: int) -> None:
        database = self.database
        try:
            with database.transaction():
                self._move_due("due_ms <= ?", now)
        except Exception as error:
            if not concerns_one_row(error):
                raise
            self._promote_one_by_one(now)

    def _promote_one_by_one(self, now: int) -> None:
        """One of those that are due can't be moved; the others can."""
        database, scheduled = self.database, self.database.scheduled
        move = partial(self._move_due, "seq = ?", one_by_one=True)
        self._places.draw_in()
        # What is undone is tried again by the next fetch, without the row that did it.
        with suppress(UndoneError), database.transaction():
            due = database.connection.execute(
                f"SELECT seq FROM {scheduled} WHERE due_ms <= ? "
                f"AND {self._quarantine.free_of(scheduled)} "
                f"ORDER BY due_ms, seq LIMIT {PROMOTE_AT_ONCE}",
                (now,),
            ).fetchall()
            for (seq,) in due:
                try:
                    with database.savepoint():
                        move(seq)
                except Exception as error:
                    self._quarantine.put_aside(scheduled, seq, error, move)

    def _move_due(self, which: str, value: int, *, one_by_one: bool = False) -> None:
        connection, scheduled = self.database.connection, self.database.scheduled
        due = (
            f"FROM {scheduled} WHERE {which} AND {self._quarantine.free_of(scheduled)} "
            f"ORDER BY due_ms, seq LIMIT {PROMOTE_AT_ONCE}"
        )
        moved = connection.execute(
            f"INSERT INTO {self.database.job} (queue, id, attempt, due_ms, body) "
            f"SELECT queue, id, attempt, due_ms, body {due}",
            (value,),
        ).rowcount
        last = connection.execute("SELECT last_insert_rowid()").fetchone()[0] if moved else 0
        if not one_by_one:
            self._places.check(self.database.job, last)
        forget = f"DELETE FROM {scheduled} WHERE seq IN (SELECT seq {due})"
        if connection.execute(forget, (value,)).rowcount != moved:
            raise IgnoredError("a trigger keeps some from being moved")

    def _lease(self, session: int, queues: Sequence[str], limit: int) -> list[Delivery]:
        """Take from each queue its share, then from those that have more what is left."""
        database = self.database
        try:
            with database.transaction():
                self.sessions.hold(session)
                return self._lease_shares(session, queues, limit)
        except Exception as error:
            if not concerns_one_row(error):
                raise
        self._places.draw_in()
        while True:
            # Again, if a row undoes it all: that one is left out then.
            with suppress(UndoneError), database.transaction():
                self.sessions.hold(session)
                return self._lease_one_by_one(session, queues, limit)

    def _lease_shares(self, session: int, queues: Sequence[str], limit: int) -> list[Delivery]:
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

    def _lease_one_by_one(self, session: int, queues: Sequence[str], limit: int) -> list[Delivery]:
        """One of the next rows is no job; it is put aside, and the others are leased."""
        deliveries: list[Delivery] = []
        left = list(queues)
        struck: AnyRowError | None = None
        while left and len(deliveries) < limit:
            for queue in list(left):
                if len(deliveries) == limit:
                    break
                if (seq := self._next_ready(queue)) is None:
                    left.remove(queue)
                    continue
                try:
                    deliveries += self._lease_one(session, queue, seq)
                except AnyRowError as error:
                    self._tell(f"no job of queue {queue} can be taken", error)
                    struck = error
                    left.remove(queue)
        if struck is not None and not deliveries:
            raise struck
        return deliveries

    def _lease_one(self, session: int, queue: str, seq: int) -> list[Delivery]:
        """Take one row, if it is a job; if it isn't, put it aside."""

        def lease(row: int) -> list[Delivery]:
            # For one more than there is: then it is looked whether it is still there.
            return self._lease_where(session, queue, "seq = ?", (row,), 2)

        try:
            with self.database.savepoint():
                taken = lease(seq)
        except Exception as error:
            self._quarantine.put_aside(self.database.job, seq, error, lease)
            return []
        if not taken:
            # It is in an index alone, and would be the next one again and again.
            job = self.database.job
            log.error("row %d of %s is in its index alone: the index is made again", seq, job)
            self.database.connection.execute(f"REINDEX {job}")
            if self._next_ready(queue) == seq:
                self._quarantine.leave(job, seq)
        return taken

    def _next_ready(self, queue: str) -> int | None:
        job = self.database.job
        found = self.database.connection.execute(
            f"SELECT seq FROM {job} WHERE session = 0 AND queue = ? "
            f"AND {self._quarantine.free_of(job)} ORDER BY seq LIMIT 1",
            (queue,),
        ).fetchone()
        return None if found is None else int(found[0])

    def _lease_from(self, session: int, queue: str, limit: int) -> list[Delivery]:
        job = self.database.job
        next_ones = (
            f"seq IN (SELECT seq FROM {job} WHERE session = 0 AND queue = ? "
            f"AND {self._quarantine.free_of(job)} ORDER BY seq LIMIT ?)"
        )
        deliveries = self._lease_where(session, queue, next_ones, (queue, limit), limit)
        if deliveries:
            self._places.check(job, deliveries[-1].receipt[0])
            seq, _, attempt = first = deliveries[0].receipt
            if self._first.get(queue) == (seq, session, attempt - 1):
                raise IgnoredError("a trigger took it back from the session that has it")
            self._first[queue] = first
        return deliveries

    def _lease_where(
        self, session: int, queue: str, which: str, values: tuple[object, ...], limit: int
    ) -> list[Delivery]:
        connection = self.database.connection
        before = connection.total_changes
        rows = connection.execute(
            f"UPDATE {self.database.job} SET session = ?, attempt = attempt + 1 WHERE {which} "
            # Another program may have written its JSON as text.
            "RETURNING seq, id, attempt, due_ms, CAST(body AS BLOB)",
            (session, *values),
        ).fetchall()
        if connection.total_changes - before < len(rows):
            # In a view instead of the table, as SQLite 3.40 has it.
            raise AnyRowError(f"{self.database.path} does not store who has a job")
        if len(rows) < limit and self._ignored(which, values):
            raise IgnoredError("a trigger keeps it from being leased")
        rows.sort()  # by seq: RETURNING promises no order
        return [
            Delivery(job_id, queue, body, attempt, due, (seq, session, attempt))
            for seq, job_id, attempt, due, body in msgspec.convert(rows, LeasedRows)
        ]

    def _ignored(self, which: str, values: tuple[object, ...]) -> bool:
        """Whether a row that was to be leased is still there to be leased."""
        query = f"SELECT 1 FROM {self.database.job} WHERE session = 0 AND {which} LIMIT 1"
        return self.database.connection.execute(query, values).fetchone() is not None

    # -- settling --------------------------------------------------------------

    def settle(self, settlements: Sequence[Settlement]) -> list[Delivery]:
        """Carry out the verdicts in one transaction; return what was no longer ours.

        Raises:
            BackendError: one of them is rejected, and none is carried out.
        """
        with self.database.errors():
            try:
                with self.database.transaction():
                    foreign = self._settle_together(settlements)
            except Exception as error:
                if not concerns_one_row(error):
                    raise
                if len(settlements) != 1:
                    raise self._rejected(error) from error
                foreign = self._settle_briefly(settlements[0])
            if any(s.verdict is not _ACKNOWLEDGE for s in settlements):
                self.sessions.ring()
        return foreign

    def _rejected(self, error: Exception) -> BackendError:
        return BackendError(f"{self.database.path} rejects a verdict: {error!r}")

    def _settle_together(self, settlements: Sequence[Settlement]) -> list[Delivery]:
        connection = self.database.connection
        acknowledged = [s.delivery.receipt for s in settlements if s.verdict is _ACKNOWLEDGE]
        others = [s for s in settlements if s.verdict is not _ACKNOWLEDGE]
        forgotten = connection.executemany(self._forget, acknowledged).rowcount
        if forgotten < len(acknowledged):
            # Some are not ours, and only one by one it shows which.
            connection.execute("ROLLBACK")
            connection.execute("BEGIN IMMEDIATE")
            others = list(settlements)
        return [s.delivery for s in others if not self._settle_one(s)]

    def _settle_briefly(self, settlement: Settlement) -> list[Delivery]:
        """Without what may be the trouble: a long error, text that isn't Unicode, the order."""
        failure = settlement.failure or Failure("")
        error = failure.error[:SHORT_ERROR].encode("utf-8", "backslashreplace").decode()
        brief = Failure(error, "", min(failure.attempts, MOST_ATTEMPTS))
        settlement = msgspec.structs.replace(settlement, failure=brief)
        try:
            with self.database.transaction():
                done = self._settle_one(settlement, place=None)
        except Exception as again:
            if not concerns_one_row(again):
                raise
            raise self._rejected(again) from again
        return [] if done else [settlement.delivery]

    def _settle_one(self, settlement: Settlement, place: int | None = -1) -> bool:
        receipt = settlement.delivery.receipt
        if settlement.verdict is _ACKNOWLEDGE:
            return self._affects_one(self._forget, receipt)
        if settlement.verdict is Verdict.RELEASE:
            return self._affects_one(self._release, receipt)
        now = now_ms()
        if settlement.verdict is Verdict.RETRY:
            due = min(now + settlement.delay_ms + 1, LATEST_MS)
            copied = self._affects_one(self._retry, (due, *receipt))
        else:
            failure = settlement.failure or Failure("")
            reason = (failure.attempts, now, failure.error, failure.traceback)
            number = now * 1000 if place is not None else None
            copied = self._affects_one(self._bury, (number, *reason, *receipt))
        if copied and not self._affects_one(self._forget, receipt):
            raise IgnoredError(
                "a trigger keeps it from being deleted, so that it would be there twice"
            )
        return copied

    def _affects_one(self, statement: str, values: tuple[object, ...]) -> bool:
        return self.database.connection.execute(statement, values).rowcount == 1

    # -- looking ---------------------------------------------------------------

    def counts(self) -> dict[str, QueueCounts]:
        """Of every queue that holds a job. Counts the entries of an index, one by one."""
        database = self.database
        # One statement, so that a job that moves meanwhile is counted once.
        query = (
            f"SELECT 'waiting', queue, count(*) FROM {database.job} WHERE session = 0 "
            "GROUP BY queue UNION ALL "
            f"SELECT 'running', queue, count(*) FROM {database.job} WHERE session IS NOT 0 "
            "GROUP BY queue UNION ALL "
            f"SELECT 'scheduled', queue, count(*) FROM {database.scheduled} "
            "GROUP BY queue UNION ALL "
            f"SELECT 'dead', queue, count(*) FROM {database.dead} GROUP BY queue"
        )
        found: dict[str, Counter[str]] = {}
        with database.errors(looking=True), any_text(database.connection):
            if not database.is_made:
                return {}
            for state, queue, number in database.connection.execute(query):
                found.setdefault(shown(queue), Counter())[state] += number
        return {queue: QueueCounts(**by_state) for queue, by_state in sorted(found.items())}
