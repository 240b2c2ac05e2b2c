"""What SQLite reports, in the terms of the contract."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from offload import BackendError, BackendUnavailableError

# By the primary code of SQLite's result codes: what an operator can do about it.
_UNAVAILABLE = {
    sqlite3.SQLITE_BUSY: "is locked by another program",
    sqlite3.SQLITE_LOCKED: "is locked by another program",
    sqlite3.SQLITE_FULL: "can't grow: the disk is full",
    sqlite3.SQLITE_IOERR: "can't be read or written (disk I/O error)",
    sqlite3.SQLITE_CANTOPEN: "can't be opened: its folder must exist and be writable",
    sqlite3.SQLITE_READONLY: "can't be written: the file, or its folder, is read-only",
    sqlite3.SQLITE_PERM: "can't be opened: permission is denied",
}
_BROKEN = {
    sqlite3.SQLITE_NOTADB: "is not a SQLite database",
    sqlite3.SQLITE_CORRUPT: "is a damaged SQLite database",
}


def translate(error: sqlite3.Error, path: Path) -> BackendError:
    """The error to raise for one of SQLite's."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in _UNAVAILABLE:
        # Only an I/O error can strike after the commit has reached the file.
        maybe_stored = code == sqlite3.SQLITE_IOERR
        return BackendUnavailableError(f"{path} {_UNAVAILABLE[code]}", maybe_stored=maybe_stored)
    return BackendError(f"{path} {_BROKEN.get(code, 'failed')}: {error}")
