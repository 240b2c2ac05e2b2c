"""The way in for threads without an event loop: a connection of its own, used by one at a time."""

from __future__ import annotations

import sqlite3
import weakref
from collections.abc import Callable, Sequence
from datetime import timedelta
from time import monotonic

from offload import BackendUnavailableError, Entry, OffloadError
from offload_sqlite.database import Database
from offload_sqlite.forks import Gate
from offload_sqlite.store import Store

PATIENCE = timedelta(milliseconds=50)
"""How long SQLite waits for a lock at a time: meanwhile it hears of no end."""


class SyncStore:
    """Stores jobs in the thread that calls it."""

    def __init__(
        self, make_database: Callable[[timedelta], Database], busy_timeout: timedelta
    ) -> None:
        self._database = make_database(min(PATIENCE, busy_timeout))
        self._busy_timeout = busy_timeout.total_seconds()
        self._store = Store(self._database)
        self._gate = Gate()
        self._is_open = False
        self._is_ended = False
        self._when_forgotten = weakref.finalize(self, self._database.close)
        self._when_forgotten.atexit = False

    def enqueue(self, entries: Sequence[Entry]) -> None:
        """Store these, in one transaction, and wake who waits for them."""
        deadline = monotonic() + self._busy_timeout
        while True:
            try:
                with self._gate:
                    self._store_now(entries)
            except BackendUnavailableError as error:
                if not _is_locked(error) or monotonic() > deadline:
                    raise
            else:
                return

    def _store_now(self, entries: Sequence[Entry]) -> None:
        if self._is_ended:
            raise BackendUnavailableError(f"{self._database.path} was closed by this process")
        try:
            if not self._is_open:
                self._database.open()
                self._is_open = True
            self._store.enqueue(entries)
        except BaseException as error:
            # Ctrl-C, say, strikes anywhere: amid a transaction, too.
            if not (self._is_open and isinstance(error, OffloadError)):
                self._is_open = False
                self._database.close()
            raise

    def end(self) -> None:
        """Let a call that waits for a lock wait no longer, and close the file."""
        self._is_ended = True
        with self._gate:
            self._when_forgotten.detach()
            self._database.close()


def _is_locked(error: BackendUnavailableError) -> bool:
    code: int = getattr(error.__cause__, "sqlite_errorcode", 0)
    return code & 0xFF == sqlite3.SQLITE_BUSY and not error.maybe_stored
