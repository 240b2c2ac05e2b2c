"""The workers that consume: their leases, how they are woken, and what becomes of the dead.

A lease belongs to a session, so that holding a thousand jobs costs the update
of one row. A worker that was taken for dead begins a new session.

One whose process isn't known to be gone is taken for dead in two steps. With less
than half a lease left it becomes a suspect: in the place of its lease's end stands,
negative, when it is dead, half a lease later at the earliest. So after a stall of
everybody each has this time to extend its own, in whatever order they look.
"""

from __future__ import annotations

import logging
import secrets
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from datetime import timedelta
from enum import Enum
from typing import NamedTuple

from offload_sqlite.bell import Bells, Life
from offload_sqlite.database import Database, now_ms, transaction
from offload_sqlite.errors import SessionLostError, concerns_one_row
from offload_sqlite.options import LONGEST_LEASE
from offload_sqlite.rows import any_text, shown

log = logging.getLogger("offload")

REAP_SECONDS = 1.0
"""How often a worker looks for others that have died."""
_FARTHEST_MS = 2 * LONGEST_LEASE // timedelta(milliseconds=1)


class Silence(Enum):
    """What it means that a worker is silent."""

    KILLED = "its process is gone"
    DEAD = "it was silent for too long"
    SUSPICIOUS = "it has half a lease to extend its own"


class Silent(NamedTuple):
    """A worker that doesn't seem to live, with the end of its lease."""

    session: int
    bell: str
    expires_ms: int
    verdict: Silence


class Sessions:
    """The table of workers."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lease = timedelta(0)
        self._next_reaping = 0.0
        self._patient_until = 0.0
        self._unmarked: set[tuple[int, int]] = set()
        """Sessions that a trigger keeps from becoming suspects, with the end of their lease."""
        self._own: dict[int, tuple[str, str]] = {}
        """Queues and bell of sessions that began here, as they were written."""
        self._is_told = False
        self._made_bells: Bells | None = None

    @property
    def bells_of_all(self) -> Bells:
        """The bells beside the database, under the name that it has behind every link."""
        made = self._made_bells
        if made is None or made.database != self._database.path:
            made = self._made_bells = Bells(self._database.path)
        return made

    @property
    def seconds_to_reaping(self) -> float:
        """How long until this worker looks for others that have died."""
        return max(0.0, self._next_reaping - time.monotonic())

    def begin(self, queues: Sequence[str], make_bell: Callable[[], str], lease: timedelta) -> int:
        """A new session, whose leases begin now. `make_bell` is called inside the transaction."""
        database = self._database
        session = secrets.randbits(62) + 1
        self._lease = lease
        with database.errors(), database.transaction():
            self._own[session] = (",".join(queues), make_bell())
            database.connection.execute(
                f"INSERT INTO {database.worker} (session, queues, bell, expires_ms) "
                "VALUES (?, ?, ?, ?)",
                (session, *self._own[session], _end_of(lease)),
            )
        return session

    def extend(self, connection: sqlite3.Connection, session: int, lease: timedelta) -> bool:
        """Hold the leases of a session for longer; False when it was taken for dead.

        On a connection of the caller's, from any thread. The time is read with
        the right to write: waiting for that takes nothing from the lease.
        After a stall in which nobody could extend a lease, the others get time
        to extend theirs before this worker takes one of them for dead.
        """
        update = f"UPDATE {self._database.worker} SET expires_ms = ? WHERE session = ?"
        own = nullcontext() if connection.in_transaction else transaction(connection, _WRITE)
        with own:
            left = self._left(session, connection)
            if left is not None and left < lease / 3:
                self._patient_until = time.monotonic() + lease.total_seconds() / 2
            return connection.execute(update, (_end_of(lease), session)).rowcount == 1

    def hold(self, session: int) -> None:
        """Make sure, inside a transaction, that what is leased now is under a lease that lasts.

        Raises:
            SessionLostError: it was taken for dead, or its lease can't be extended.
        """
        left = self._left(session)
        if left is None:
            raise SessionLostError(f"session {session} was taken for dead")
        if left < self._lease / 3:
            held = self.extend(self._database.connection, session, self._lease)
            if not held:
                raise SessionLostError(f"the lease of session {session} can't be extended")

    def _left(self, session: int, connection: sqlite3.Connection | None = None) -> timedelta | None:
        """How much of a lease is left; None when there is no such session any more."""
        query = f"SELECT expires_ms FROM {self._database.worker} WHERE session = ?"
        connection = connection or self._database.connection
        found = connection.execute(query, (session,)).fetchone()
        if found is None:
            return None
        expires = found[0] if isinstance(found[0], int) else 0
        return timedelta(milliseconds=max(-_FARTHEST_MS, min(expires - now_ms(), _FARTHEST_MS)))

    def end(self, session: int) -> None:
        """What the session still has leased goes back at once: its verdict could not be stored."""
        database = self._database
        with database.errors():
            with database.transaction():
                returned = self._take_back(session)
            if returned:
                self.ring()

    def give_up(self, session: int) -> None:
        """What a lost session still has leased goes back at once: its worker has cut it short."""
        database = self._database
        with database.errors():
            try:
                with database.transaction():
                    self._take_back(session, is_charged=False)
            except Exception as error:
                if not concerns_one_row(error):
                    raise
                log.warning("jobs of a lost session stay until its lease ends: %r", error)
            self.ring()

    # -- bells -----------------------------------------------------------------

    def bells(self, queues: set[str] | None = None) -> list[str]:
        """The bells of the workers that consume any of these queues; of all, if None."""
        connection = self._database.connection
        with any_text(connection):
            rows = connection.execute(
                f"SELECT bell, queues FROM {self._database.worker} WHERE bell != ''"
            ).fetchall()
        return [
            name
            for name, consumed in rows
            if queues is None or not queues.isdisjoint(shown(consumed).split(","))
        ]

    def ring(self, names: Sequence[str] | None = None) -> None:
        """Wake the workers with these bells, or all."""
        for name in self.bells() if names is None else names:
            self.bells_of_all.ring(name)

    # -- recovery --------------------------------------------------------------

    def reap_now_and_then(self, own_session: int) -> bool:
        """Give back what dead workers had leased: its attempt counts, and its place is kept.

        Returns whether it was time to look.

        Raises:
            SessionLostError: this worker itself was taken for dead.
        """
        if time.monotonic() < self._next_reaping:
            return False
        self._next_reaping = time.monotonic() + REAP_SECONDS
        database = self._database
        left = self._left(own_session)
        if left is None or left < self._lease / 3:
            with database.transaction():
                self.hold(own_session)
        self._mend(own_session)
        silent = self._silent(own_session)
        self._suspect(silent)
        if all(each.verdict is Silence.SUSPICIOUS for each in silent) and not self._has_orphans():
            return True
        with database.transaction():
            self.hold(own_session)  # the stall may have come before this transaction
            # Asked again now that nobody else can write: a worker may have come back.
            for session, name, _, verdict in self._silent(own_session):
                if verdict is not Silence.SUSPICIOUS:
                    self._take_back(session)
                if verdict is Silence.KILLED:
                    self.bells_of_all.remove(name)
            database.connection.execute(
                f"UPDATE {database.job} SET session = 0 WHERE session IN ({self._orphans()})"
            )
        self.ring()
        return True

    def _mend(self, own_session: int) -> None:
        """Write the row of this worker again if another program has changed how it is woken."""
        connection, worker = self._database.connection, self._database.worker
        query = f"SELECT queues, bell FROM {worker} WHERE session = ?"
        with any_text(connection):
            found = connection.execute(query, (own_session,)).fetchone()
        own = self._own.get(own_session)
        if found is None or own is None or found == own:
            return
        try:
            with self._database.transaction():
                update = f"UPDATE {worker} SET queues = ?, bell = ? WHERE session = ?"
                mended = connection.execute(update, (*own, own_session)).rowcount == 1
        except Exception as error:
            if not concerns_one_row(error):
                raise
            mended = False
        if mended or not self._is_told:
            end = "written again" if mended else "left so: it may wake up to a second late"
            log.warning("another program changed how a worker of %s is woken; %s", worker, end)
        self._is_told = not mended

    def _suspect(self, silent: Sequence[Silent]) -> None:
        """Give those that become suspects half a lease, in which they must extend theirs."""
        database = self._database
        self._unmarked &= {(each.session, each.expires_ms) for each in silent}
        update = f"UPDATE {database.worker} SET expires_ms = ? WHERE session = ? AND expires_ms = ?"
        for session, _, expires, verdict in silent:
            if verdict is not Silence.SUSPICIOUS:
                continue
            try:
                with database.transaction():
                    # The time is read now that nobody else can write.
                    dead_ms = max(expires, _end_of(self._lease / 2))
                    values = (-dead_ms, session, expires)
                    marked = database.connection.execute(update, values).rowcount == 1
            except Exception as error:
                if not concerns_one_row(error):
                    raise
                marked = False
            if marked:
                self._look_at(dead_ms)
            else:
                self._unmarked.add((session, expires))

    def _silent(self, own_session: int) -> list[Silent]:
        """The other workers that don't seem to live."""
        database = self._database
        with any_text(database.connection):
            rows = database.connection.execute(
                f"SELECT session, bell, expires_ms FROM {database.worker} WHERE session != ?",
                (own_session,),
            ).fetchall()
        silent = []
        for session, bell, expires in rows:
            life = self.bells_of_all.ask(bell)
            if life is Life.DEAD:
                silent.append(Silent(session, bell, 0, Silence.KILLED))
            elif not isinstance(expires, int):
                silent.append(Silent(session, bell, 0, Silence.DEAD))  # a stranger wrote that
            elif verdict := self._judge(session, expires, life):
                silent.append(Silent(session, bell, expires, verdict))
        return silent

    def _judge(self, session: int, expires: int, life: Life) -> Silence | None:
        now = now_ms()
        if expires > now + _FARTHEST_MS:
            # A stranger wrote that; or the clock was set back, which a living worker makes up for.
            return None if life is Life.ALIVE else Silence.DEAD
        if expires >= _end_of(self._lease / 2):
            return None
        if expires < -now - _FARTHEST_MS:
            return Silence.SUSPICIOUS
        if expires < -now:
            self._look_at(-expires)
            return None
        if expires < 0 or (expires < now and (session, expires) in self._unmarked):
            return Silence.DEAD if time.monotonic() >= self._patient_until else None
        return Silence.SUSPICIOUS

    def _look_at(self, end_ms: int) -> None:
        """Look again when the time of a suspect is up, if it is sooner than otherwise."""
        wanted = time.monotonic() + (end_ms - now_ms()) / 1000
        self._next_reaping = min(self._next_reaping, wanted)

    def _orphans(self) -> str:
        """The sessions that jobs are leased to, and that no worker has. Skips through an index."""
        job = self._database.job
        return (
            "WITH RECURSIVE held(session) AS ("
            f"SELECT min(session) FROM {job} UNION ALL "
            f"SELECT (SELECT min(session) FROM {job} WHERE session > held.session) "
            "FROM held WHERE held.session IS NOT NULL) "
            "SELECT session FROM held WHERE session IS NOT NULL AND session IS NOT 0 "
            f"AND session NOT IN (SELECT session FROM {self._database.worker})"
        )

    def _has_orphans(self) -> bool:
        query = f"SELECT count(*) FROM ({self._orphans()})"
        return bool(self._database.connection.execute(query).fetchone()[0])

    def _take_back(self, session: int, *, is_charged: bool = True) -> int:
        """End a session, and give back what it has leased; how many jobs these were."""
        change = "session = 0" if is_charged else "session = 0, attempt = attempt - 1"
        execute = self._database.connection.execute
        update = f"UPDATE {self._database.job} SET {change} WHERE session = ?"
        returned = execute(update, (session,)).rowcount
        self._own.pop(session, None)
        execute(f"DELETE FROM {self._database.worker} WHERE session = ?", (session,))
        return returned


_WRITE = "BEGIN IMMEDIATE"


def _end_of(lease: timedelta) -> int:
    return now_ms() + lease // timedelta(milliseconds=1)
