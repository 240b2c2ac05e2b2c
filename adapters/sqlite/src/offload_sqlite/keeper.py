"""What extends a lease: a connection of its own, used from the engine's thread for leases."""

from __future__ import annotations

import sqlite3
import threading
from datetime import timedelta

from offload_sqlite.database import Database
from offload_sqlite.errors import translate
from offload_sqlite.file import Identity
from offload_sqlite.sessions import Sessions


class Keeper:
    """Extends leases while the store's own connection may be busy for longer than one lasts."""

    def __init__(self, database: Database, sessions: Sessions) -> None:
        self._database = database
        self._sessions = sessions
        self._connection: sqlite3.Connection | None = None
        self._identity: Identity | None = None
        self._closed = False
        self._lock = threading.Lock()

    def extend(self, session: int, lease: timedelta) -> bool:
        """Hold the leases of a session for longer; False when it was taken for dead."""
        with self._lock:
            if self._closed:
                return True
            try:
                return self._sessions.extend(self._ensure_connection(), session, lease)
            except Exception as error:
                raise translate(error, self._database.path) from error

    def _ensure_connection(self) -> sqlite3.Connection:
        identity = self._database.file.identity()
        if self._connection is not None and identity == self._identity:
            return self._connection
        if self._connection is not None:
            self._connection.close()
        self._connection = None
        self._connection = self._database.connect()
        self._identity = self._database.file.identity()
        return self._connection

    def close(self) -> None:
        """Close the connection, after an extension that is under way."""
        with self._lock:
            self._closed = True
            if self._connection is not None:
                self._connection.close()
                self._connection = None
