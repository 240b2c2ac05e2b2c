"""What is performed comes into the tables."""

from __future__ import annotations

from collections.abc import Sequence

from offload import BackendError, Entry
from offload_sqlite.database import Database, now_ms
from offload_sqlite.errors import FarPlaceError
from offload_sqlite.places import Places
from offload_sqlite.sessions import Sessions

Row = tuple[str, str, int, bytes]
"""Queue, id, due time in milliseconds since the epoch, body."""


class Intake:
    """Stores new jobs at the ends of their tables."""

    def __init__(self, database: Database, sessions: Sessions, places: Places) -> None:
        self._database = database
        self._sessions = sessions
        self._places = places
        values = "(queue, id, due_ms, body) VALUES (?, ?, ?, ?)"
        self._insert = f"INSERT INTO {database.job} {values}"
        self._schedule = f"INSERT INTO {database.scheduled} {values}"

    def store(self, entries: Sequence[Entry]) -> list[str]:
        """Store these in one transaction, and return the bells of those who wait for them.

        Raises:
            BackendError: a trigger left one out, so none is stored.
        """
        try:
            return self._store(entries, checked=True)
        except FarPlaceError:
            self._places.draw_in()
            return self._store(entries, checked=False)

    def _store(self, entries: Sequence[Entry], *, checked: bool) -> list[str]:
        database = self._database
        with database.transaction():
            now = now_ms()
            ready: list[Row] = []
            later: list[Row] = []
            for entry in entries:
                # One more, since the millisecond that is now has begun already.
                due = now + entry.delay_ms + 1 if entry.delay_ms else entry.at_ms or now
                row = (entry.queue, entry.id, due, entry.body)
                (later if due > now else ready).append(row)
            last_ready = self._add(self._insert, ready)
            last_later = self._add(self._schedule, later)
            if checked:
                self._places.check(database.job, last_ready)
                self._places.check(database.scheduled, last_later)
            return self._sessions.bells({entry.queue for entry in entries})

    def _add(self, insert: str, rows: list[Row]) -> int:
        """Insert these; the number of the last, which only `execute` gives, tells of them all."""
        if not rows:
            return 0
        connection, stored = self._database.connection, 0
        if len(rows) > 1:
            stored = connection.executemany(insert, rows[:-1]).rowcount
        last = connection.execute(insert, rows[-1])
        if stored + last.rowcount != len(rows):
            raise BackendError(f"a trigger of {self._database.path} keeps jobs from being stored")
        return last.lastrowid or 0
