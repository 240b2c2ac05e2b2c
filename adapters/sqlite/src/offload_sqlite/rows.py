"""What other programs wrote into the tables: checked, and shown as what it is.

SQLite puts any value into any column: a number into a body, bytes that are no
text into a name. No row of that kind may cost another row anything.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any

import msgspec

LATEST_MS = 253_402_300_799_000
"""The last second that a calendar of Python knows, in milliseconds since the epoch."""
MOST_ATTEMPTS = 1_000_000_000
LONGEST_ID = 1_000

_Count = Annotated[int, msgspec.Meta(ge=0, le=MOST_ATTEMPTS)]
# A job may be performed at `datetime.min`, in any zone.
_Due = Annotated[int, msgspec.Meta(ge=-62_200_000_000_000, le=LATEST_MS)]
_Died = Annotated[int, msgspec.Meta(ge=0, le=LATEST_MS)]
_Id = Annotated[str, msgspec.Meta(min_length=1, max_length=LONGEST_ID)]
_Run = Annotated[int, msgspec.Meta(ge=1, le=MOST_ATTEMPTS)]
LeasedRows = list[tuple[int, _Id, _Run, _Due, bytes]]
"""Rows as they are leased: seq, id, attempt (the one that begins), due_ms, body."""

_RULES: Mapping[str, tuple[Any, str]] = {
    "id": (_Id, f"text of 1 to {LONGEST_ID} characters"),
    "queue": (str, "text"),
    "attempt": (_Count, "a small whole number"),
    "attempts": (_Count, "a small whole number"),
    "due_ms": (_Due, "milliseconds since the epoch, up to the year 9999"),
    "died_ms": (_Died, "milliseconds since the epoch, up to the year 9999"),
    "error": (str, "text"),
    "traceback": (str, "text"),
}
_SHOWN = 100
"""How many characters of a value an error quotes."""


class NotText(bytes):
    """A value that SQLite has as text, and that isn't UTF-8."""


def _read_text(raw: bytes) -> str | NotText:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return NotText(raw)


@contextmanager
def any_text(connection: sqlite3.Connection) -> Iterator[None]:
    """Read text that isn't UTF-8 as `NotText`, where it would be an error."""
    connection.text_factory = _read_text
    try:
        yield
    finally:
        connection.text_factory = str


def is_good(column: str, value: object) -> bool:
    """Whether a column may hold this."""
    try:
        msgspec.convert(value, _RULES[column][0])
    except msgspec.ValidationError:
        return False
    return True


def faults(row: Mapping[str, object]) -> str:
    """What is wrong with the values of these columns; empty if all are good."""
    return "; ".join(
        f"{column} is {_quoted(value)}, not {_RULES[column][1]}"
        for column, value in row.items()
        if not is_good(column, value)
    )


def shown(value: object) -> str:
    """Any value as text: itself, if it is text."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return "NULL" if value is None else str(value)


def as_body(value: object) -> bytes:
    """Any value as the bytes of a body."""
    return bytes(value) if isinstance(value, bytes) else shown(value).encode() if value else b""


def _quoted(value: object) -> str:
    if value is None:
        return "NULL"
    kind = ""
    if isinstance(value, bytes):
        kind = "text that isn't UTF-8, " if isinstance(value, NotText) else "a blob, "
        value = bytes(value)
    quoted = repr(value)
    if len(quoted) > _SHOWN:
        quoted = f"{quoted[:_SHOWN]}… ({len(quoted)} characters)"
    return kind + quoted
