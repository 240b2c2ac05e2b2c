"""The file: a connection to it, its tables, and its transactions."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from offload import BackendUnavailableError
from offload_sqlite import schema
from offload_sqlite.errors import translate


def now_ms() -> int:
    """The clock that due times and leases go by: the host's."""
    return time.time_ns() // 1_000_000


class Database:
    """One namespace of one database file. Blocking, and for one thread."""

    def __init__(
        self, path: Path, namespace: str, synchronous: str, busy_timeout: timedelta
    ) -> None:
        self.path = path
        # SQLite takes two names that differ in case only for the same.
        self._prefix = re.sub("[A-Z]", lambda letter: f"~{letter[0].lower()}", namespace)
        self._synchronous = synchronous
        self._busy_timeout = busy_timeout
        self._opened: sqlite3.Connection | None = None
        self.job, self.scheduled, self.dead, self.worker = (
            f'"{self._prefix}_{table}"' for table in ("job", "scheduled", "dead", "worker")
        )

    def connect(self) -> sqlite3.Connection:
        """A connection of the caller's own, which leaves transactions to the caller."""
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
        """Open the file, and make it and its tables if need be."""
        with self.errors():
            self._opened = self.connect()
            self._enter_wal()
            self.connection.execute(f"PRAGMA synchronous = {self._synchronous}")
            with self.transaction():
                schema.create(self.connection, self._prefix)

    def close(self) -> None:
        """Close the file, if it is open."""
        if self._opened is not None:
            with self.errors():
                self._opened.close()

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

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of it or nothing, with the right to write from its beginning."""
        with self._between("BEGIN IMMEDIATE"):
            yield

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Read everything as it is at one moment."""
        with self._between("BEGIN"):
            yield

    @contextmanager
    def _between(self, begin: str) -> Iterator[None]:
        connection = self.connection
        connection.execute(begin)
        try:
            yield
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Raise SQLite's errors as those of the contract."""
        try:
            yield
        except sqlite3.Error as error:
            raise translate(error, self.path) from error
