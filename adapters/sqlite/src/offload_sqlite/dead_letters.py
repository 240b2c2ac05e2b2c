"""The jobs that failed for good, and what was put aside because it is no job."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from typing import TypeGuard

from offload import Failure, StoredDeadLetter, UsageError
from offload_sqlite.database import Database, now_ms
from offload_sqlite.errors import IgnoredError, UndoneError, concerns_one_row
from offload_sqlite.places import Places
from offload_sqlite.rows import any_text, as_body, faults, is_good, shown
from offload_sqlite.sessions import Sessions

log = logging.getLogger("offload")

_FIRST, _MOST = -(1 << 63), (1 << 63) - 1
_COLUMNS = "seq, id, queue, body, died_ms, error, traceback, attempts"
_NUMBERED = re.compile(r"row-(-?[0-9]{1,19})")
"""Stands for the id of a row whose own can't be given as text, or looks like this itself."""


class DeadLetterTable:
    """The table of dead letters."""

    def __init__(self, database: Database, sessions: Sessions, places: Places) -> None:
        self._database = database
        self._sessions = sessions
        self._places = places

    def page(self, limit: int, after: str | None) -> list[StoredDeadLetter]:
        """Up to `limit`, the oldest first, behind the place `after`."""
        which = "seq > ?" if after is not None else "seq >= ?"
        limit = max(0, min(limit, _MOST))  # to SQLite, a negative one is none
        return self._select(f"WHERE {which} ORDER BY seq LIMIT ?", (_place(after), limit))

    def show(self, job_id: str) -> StoredDeadLetter | None:
        """The one with this id."""
        with self._database.errors(looking=True):
            found = self._rows_of(job_id) if self._database.is_made else []
        letters = self._select("WHERE seq = ?", (found[0],)) if found else []
        return letters[0] if letters else None

    def _select(self, where: str, values: tuple[object, ...]) -> list[StoredDeadLetter]:
        connection, dead = self._database.connection, self._database.dead
        with self._database.errors(looking=True), any_text(connection):
            if not self._database.is_made:
                return []
            try:
                rows = connection.execute(f"SELECT {_COLUMNS} FROM {dead} {where}", values)
                return [_read(row) for row in rows.fetchall()]
            except Exception as error:
                if not concerns_one_row(error):
                    raise
            # One is too large for the memory, for example; the others can be read.
            seqs = connection.execute(f"SELECT seq FROM {dead} {where}", values).fetchall()
            return [self._read_surely(seq) for (seq,) in seqs]

    def _read_surely(self, seq: int) -> StoredDeadLetter:
        query = f"SELECT {_COLUMNS} FROM {self._database.dead} WHERE seq = ?"
        try:
            return _read(self._database.connection.execute(query, (seq,)).fetchone())
        except Exception as error:
            if not concerns_one_row(error):
                raise
            failure = Failure(f"this row can't be read: {error!r}")
            return StoredDeadLetter(f"row-{seq}", "", b"", 0, failure, str(seq))

    def _rows_of(self, job_id: str) -> list[int]:
        """The numbers of the rows that are shown with this id."""
        dead, execute = self._database.dead, self._database.connection.execute
        if _names_itself(job_id):
            rows = execute(f"SELECT seq FROM {dead} WHERE id = ?", (job_id,)).fetchall()
            return [seq for (seq,) in rows]
        numbered = _NUMBERED.fullmatch(job_id)
        if numbered is None or not _FIRST <= (number := int(numbered[1])) <= _MOST:
            return []
        with any_text(self._database.connection):
            found = execute(f"SELECT seq, id FROM {dead} WHERE seq = ?", (number,)).fetchall()
        return [seq for seq, own in found if not _names_itself(own)]

    def requeue(self, ids: Sequence[str]) -> list[str]:
        """Move them back to the ends of their queues, all in one transaction."""
        with self._database.errors(looking=True):
            if not self._database.is_made:
                return []
            self._places.draw_in()
            moved = self._do_each(ids, self._requeue_one, "requeued")
            self._sessions.ring()
        return moved

    def discard(self, ids: Sequence[str]) -> list[str]:
        """Delete them."""
        with self._database.errors(looking=True):
            return self._do_each(ids, self._delete, "discarded") if self._database.is_made else []

    def _do_each(self, ids: Sequence[str], change: Callable[[int], None], what: str) -> list[str]:
        """Change all that can be, and return their ids."""
        database = self._database
        refused: set[str] = set()
        while True:
            try:
                with database.transaction():
                    done = []
                    for job_id in dict.fromkeys(ids):
                        if job_id not in refused and self._do_rows(job_id, change, what):
                            done.append(job_id)
                    return done
            except UndoneError:
                # With it what was done before: again, but without that one.
                refused.add(job_id)

    def _do_rows(self, job_id: str, change: Callable[[int], None], what: str) -> bool:
        seqs = self._rows_of(job_id)
        try:
            with self._database.savepoint():
                for seq in seqs:
                    change(seq)
        except Exception as error:
            if not concerns_one_row(error):
                raise
            log.warning("dead letter %s can't be %s: %r", job_id, what, error)
            if isinstance(error, UndoneError):
                raise
            return False
        return bool(seqs)

    def _requeue_one(self, seq: int) -> None:
        database = self._database
        move = (
            f"INSERT INTO {database.job} (queue, id, due_ms, body) "
            f"SELECT queue, id, ?, body FROM {database.dead} WHERE seq = ?"
        )
        self._change(move, now_ms(), seq)
        self._delete(seq)

    def _delete(self, seq: int) -> None:
        database = self._database
        self._change(f"DELETE FROM {database.dead} WHERE seq = ?", seq)

    def _change(self, statement: str, *values: int) -> None:
        if self._database.connection.execute(statement, values).rowcount != 1:
            raise IgnoredError("a trigger keeps it from being moved")


def _read(row: tuple[object, ...]) -> StoredDeadLetter:
    """A row as it is; what can't be so in a dead letter is told in its error."""
    seq, job_id, queue, body, died, error, traceback, attempts = row
    told = shown(error)
    wrong = faults(
        {"id": job_id, "queue": queue, "died_ms": died, "attempts": attempts, "error": error}
    )
    if wrong:
        told = f"written by another program: {wrong}\n{told}"
    return StoredDeadLetter(
        job_id if _names_itself(job_id) else f"row-{seq}",
        shown(queue),
        as_body(body),
        died if isinstance(died, int) and is_good("died_ms", died) else 0,
        Failure(
            told,
            shown(traceback),
            attempts if isinstance(attempts, int) and is_good("attempts", attempts) else 0,
        ),
        str(seq),
    )


def _names_itself(job_id: object) -> TypeGuard[str]:
    """Whether a letter can be named by its id, on the command line, too."""
    if not isinstance(job_id, str) or not is_good("id", job_id) or "\0" in job_id:
        return False
    try:
        job_id.encode()
    except UnicodeEncodeError:
        return False
    return _NUMBERED.fullmatch(job_id) is None


def _place(cursor: str | None) -> int:
    """The number of a row; without a cursor, the lowest there is."""
    if cursor is None:
        return _FIRST
    if re.fullmatch("-?[0-9]{1,19}", cursor) and _FIRST <= int(cursor) <= _MOST:
        return int(cursor)
    raise UsageError(f"after: {cursor!r} is not the cursor of a dead letter")
