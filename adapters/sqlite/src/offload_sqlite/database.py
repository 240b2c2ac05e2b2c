"""The file: a connection to it, its tables, and its transactions."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import timedelta

from offload import BackendUnavailableError
from offload_sqlite import schema
from offload_sqlite.errors import UndoneError, concerns_one_row, translate
from offload_sqlite.file import DatabaseFile, Identity

log = logging.getLogger("offload")


def now_ms() -> int:
    """The clock that due times and leases go by: the host's."""
    return time.time_ns() // 1_000_000


class Database:
    """One namespace of one database file. Blocking, and for one thread."""

    def __init__(
        self, file: DatabaseFile, prefix: str, synchronous: str, busy_timeout: timedelta
    ) -> None:
        self.file = file
        self.path = file.named
        self._prefix = prefix
        self._synchronous = synchronous
        self._busy_timeout = busy_timeout
        self._opened: sqlite3.Connection | None = None
        self._identity: Identity | None = None
        self.is_made = False
        """Whether there are tables."""
        self.job, self.scheduled, self.dead, self.worker = (
            f'"{prefix}_{table}"' for table in ("job", "scheduled", "dead", "worker")
        )

    def connect(self) -> sqlite3.Connection:
        """A connection of the caller's own, which leaves transactions to the caller."""
        self.file.prepare()
        return sqlite3.connect(
            self.path,
            timeout=self._busy_timeout.total_seconds(),
            isolation_level=None,
            check_same_thread=False,
        )

    @property
    def connection(self) -> sqlite3.Connection:
        """The connection of the store's thread."""
        if self._opened is None:
            raise BackendUnavailableError(f"{self.path} is not open")
        return self._opened

    def open(self) -> None:
        """Open the file, and make it if need be; its tables are made by the first who stores."""
        with self._translated():
            self.path = self.file.path
            self._opened = self.connect()
            self.is_made = schema.is_there(self.connection, self._prefix)
            self.connection.execute(f"PRAGMA synchronous = {self._synchronous}")
            self._identity = self.file.identity()

    def _make(self) -> None:
        self._enter_wal()
        with self.transaction():
            if not schema.is_there(self.connection, self._prefix):
                schema.create(self.connection, self._prefix)
        self.is_made = True

    def close(self) -> None:
        """Close the file, if it is open."""
        opened, self._opened = self._opened, None
        if opened is not None:
            with self._translated():
                opened.close()

    def _enter_wal(self) -> None:
        """Turn on the write-ahead log, which stays on in the file.

        SQLite doesn't wait for a lock here, so processes that open a new file
        at the same time must take turns by themselves.
        """
        deadline = time.monotonic() + self._busy_timeout.total_seconds()
        while True:
            try:
                self.connection.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as error:
                busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
                if not busy or time.monotonic() > deadline:
                    raise
                time.sleep(0.005)
            else:
                return

    # -- the file under its name -----------------------------------------------

    def is_moved(self) -> bool:
        """Whether another file, or none, has the name since this one was opened."""
        return self.file.identity() != self._identity

    def _follow(self) -> None:
        """Go on with the file that has the name now: what is stored in another is lost."""
        if self._opened is not None:
            log.warning("%s was removed or replaced while it was open; opening it again", self.path)
            with suppress(sqlite3.Error):
                self._opened.close()
        self._opened = None
        self.open()

    # -- transactions ----------------------------------------------------------

    def transaction(self) -> AbstractContextManager[None]:
        """All of it or nothing, with the right to write from its beginning."""
        return transaction(self.connection, "BEGIN IMMEDIATE")

    def snapshot(self) -> AbstractContextManager[None]:
        """Read everything as it is at one moment."""
        return transaction(self.connection, "BEGIN")

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """All of it or nothing, inside a transaction that goes on.

        Raises:
            UndoneError: it doesn't go on; whatever was done in it before is undone, too.
        """
        connection = self.connection
        connection.execute("SAVEPOINT one")
        try:
            yield
        except BaseException as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK TO one")
            elif isinstance(error, Exception) and concerns_one_row(error):
                raise UndoneError(f"a trigger has rolled the transaction back: {error}") from error
            raise  # SQLite itself rolls back when the disk is full, for example
        finally:
            if connection.in_transaction:
                connection.execute("RELEASE one")

    @contextmanager
    def errors(self, *, looking: bool = False) -> Iterator[None]:
        """Use the file that has the name now, and raise whatever fails as one of ours.

        Its tables are there, but for one who is only `looking`: see `is_made`.
        """
        with self._translated():
            if self.is_moved() and self._identity is not None:
                self._follow()
            if not looking and not self.is_made:
                self._make()
            yield

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            ours = translate(error, self.path)
            if ours is error:
                raise
            raise ours from error


@contextmanager
def transaction(connection: sqlite3.Connection, begin: str) -> Iterator[None]:
    """All of it or nothing."""
    connection.execute(begin)
    try:
        yield
        _commit(connection)
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _commit(connection: sqlite3.Connection) -> None:
    if not connection.in_transaction:
        raise UndoneError("a trigger has rolled the transaction back")
    connection.execute("COMMIT")
