"""What SQLite reports, in the terms of the contract. Nothing else leaves the adapter."""

from __future__ import annotations

import logging
import re
import sqlite3
from pathlib import Path

from offload import BackendError, BackendUnavailableError, OffloadError

log = logging.getLogger("offload")

# By the primary code of SQLite's result codes: what an operator can do about it.
_UNAVAILABLE = {
    sqlite3.SQLITE_BUSY: "is locked by another program",
    sqlite3.SQLITE_LOCKED: "is locked by another program",
    sqlite3.SQLITE_FULL: "can't grow: the disk is full",
    sqlite3.SQLITE_IOERR: "can't be read or written (disk I/O error)",
    sqlite3.SQLITE_CANTOPEN: "can't be opened: its folder must exist, and both be writable",
    sqlite3.SQLITE_READONLY: "can't be written: the file, or its folder, is read-only",
    sqlite3.SQLITE_PERM: "can't be opened: permission is denied",
}
_BROKEN = {
    sqlite3.SQLITE_NOTADB: "is not a SQLite database",
    sqlite3.SQLITE_CORRUPT: "is a damaged SQLite database",
}


class UndoneError(Exception):
    """A trigger of another program has ended our transaction: nothing of it was done."""


class IgnoredError(Exception):
    """A statement changed nothing, since a trigger of another program told it to leave a row."""


class FarPlaceError(Exception):
    """A row has a number that no table reaches by itself, and must be moved first."""


class SessionLostError(BackendError):
    """A worker was taken for dead: what its session had leased is others' by now."""


class AnyRowError(BackendUnavailableError):
    """What fails for one row fails for any: a trigger or an index stands against all of them."""


_OF_THE_SCHEMA = re.compile(
    r"no such |.* has no column named |cannot modify .* view|near \"|error in "
)
"""How SQLite says that a statement can't be carried out on these tables, whatever the row."""


def _code(error: BaseException) -> int:
    """SQLite's primary result code; 0 for what the Python module raises by itself."""
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF


def _is_of_the_schema(error: BaseException) -> bool:
    return _code(error) == sqlite3.SQLITE_ERROR and bool(_OF_THE_SCHEMA.match(str(error)))


def concerns_one_row(error: Exception) -> bool:
    """Whether other rows may still be read or written: the file as a whole is usable."""
    if isinstance(error, OffloadError) or _is_of_the_schema(error):
        return False
    return _code(error) not in _UNAVAILABLE and _code(error) not in _BROKEN


def translate(error: Exception, path: Path) -> OffloadError:
    """The error to raise for one of SQLite's, of Python's `sqlite3`, or of anything else."""
    if isinstance(error, OffloadError):
        return error
    code = _code(error)
    if code in _UNAVAILABLE:
        # Only an I/O error can strike after the commit has reached the file.
        maybe_stored = code == sqlite3.SQLITE_IOERR
        return BackendUnavailableError(f"{path} {_UNAVAILABLE[code]}", maybe_stored=maybe_stored)
    if _is_of_the_schema(error):
        return BackendUnavailableError(f"{path}: another program has changed its tables: {error}")
    if isinstance(error, OSError):
        return BackendUnavailableError(f"{path} can't be used: {error.strerror or error}")
    if not code:
        log.error("an unexpected error while using %s", path, exc_info=error)
        return BackendError(f"{path} failed: {type(error).__name__}: {error}")
    return BackendError(f"{path} {_BROKEN.get(code, 'failed')}: {error}")
