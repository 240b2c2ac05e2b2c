"""The workers that consume: their leases, how they are woken, and what becomes of the dead.

A lease belongs to a session, so that holding a thousand jobs costs the update
of one row. A worker that was taken for dead begins a new session.
"""

from __future__ import annotations

import secrets
import sqlite3
import time
from collections.abc import Callable, Sequence
from datetime import timedelta

from offload_sqlite import bell
from offload_sqlite.bell import Life
from offload_sqlite.database import Database, now_ms

REAP_SECONDS = 1.0
"""How often a worker looks for others that have died."""


class Sessions:
    """The table of workers."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._next_reaping = 0.0

    def begin(self, queues: Sequence[str], make_bell: Callable[[], str], lease: timedelta) -> int:
        """A new session, whose leases begin now. `make_bell` is called inside the transaction."""
        database = self._database
        session = secrets.randbits(62) + 1
        with database.errors(), database.transaction():
            database.connection.execute(
                f"INSERT INTO {database.worker} VALUES (?, ?, ?, ?)",
                (session, ",".join(queues), make_bell(), _end_of(lease)),
            )
        return session

    def exists(self, session: int) -> bool:
        """Whether the session still holds its leases: nobody took it for dead."""
        database = self._database
        query = f"SELECT 1 FROM {database.worker} WHERE session = ?"
        with database.errors():
            return database.connection.execute(query, (session,)).fetchone() is not None

    def extend(self, connection: sqlite3.Connection, session: int, lease: timedelta) -> bool:
        """Hold the leases of a session for longer; False when it was taken for dead.

        On a connection of the caller's, from any thread.
        """
        update = f"UPDATE {self._database.worker} SET expires_ms = ? WHERE session = ?"
        return connection.execute(update, (_end_of(lease), session)).rowcount == 1

    def end(self, session: int) -> None:
        """What the session still has leased goes back at once, as if never taken."""
        database = self._database
        with database.errors():
            with database.transaction():
                returned = database.connection.execute(
                    f"UPDATE {database.job} SET session = 0, attempt = attempt - 1 "
                    "WHERE session = ?",
                    (session,),
                ).rowcount
                self._delete(session)
            if returned:
                self.ring()

    # -- bells -----------------------------------------------------------------

    def bells(self, queues: set[str] | None = None) -> list[str]:
        """The bells of the workers that consume any of these queues; of all, if None."""
        database = self._database
        rows = database.connection.execute(
            f"SELECT bell, queues FROM {database.worker} WHERE bell != ''"
        )
        return [
            name
            for name, consumed in rows
            if queues is None or not queues.isdisjoint(consumed.split(","))
        ]

    def ring(self, names: Sequence[str] | None = None) -> None:
        """Wake the workers with these bells, or all."""
        for name in self.bells() if names is None else names:
            bell.ring(self._database.path.with_name(name))

    # -- recovery --------------------------------------------------------------

    def reap_now_and_then(self, own_session: int) -> None:
        """Give back what dead workers had leased: its attempt counts, and its place is kept."""
        if time.monotonic() < self._next_reaping:
            return
        self._next_reaping = time.monotonic() + REAP_SECONDS
        if not self._dead(own_session):
            return
        database = self._database
        with database.transaction():
            # Asked again now that nobody else can write: a worker may have come back.
            for session, name, killed in self._dead(own_session):
                database.connection.execute(
                    f"UPDATE {database.job} SET session = 0 WHERE session = ?", (session,)
                )
                self._delete(session)
                if killed:
                    database.path.with_name(name).unlink(missing_ok=True)
        self.ring()

    def _dead(self, own_session: int) -> list[tuple[int, str, bool]]:
        """Session and bell of each dead worker, and whether its process is known to be gone."""
        database = self._database
        rows = database.connection.execute(
            f"SELECT session, bell, expires_ms FROM {database.worker} WHERE session != ?",
            (own_session,),
        ).fetchall()
        dead = []
        for session, name, expires in rows:
            killed = bool(name) and bell.ask(database.path.with_name(name)) is Life.DEAD
            if killed or expires < now_ms():
                dead.append((session, name, killed))
        return dead

    def _delete(self, session: int) -> None:
        database = self._database
        database.connection.execute(f"DELETE FROM {database.worker} WHERE session = ?", (session,))


def _end_of(lease: timedelta) -> int:
    return now_ms() + lease // timedelta(milliseconds=1)
