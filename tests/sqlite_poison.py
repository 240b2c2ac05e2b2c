"""Rows that no release of ours ever wrote, for any table: what another program may put there."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import strategies as st

import offload

FOREIGN_BELL = "jobs.db-worker-0123456789abcdef"
"""A good name of a bell, for a file that isn't one."""


class BadText(NamedTuple):
    """Bytes that SQLite is to take for text."""

    raw: bytes


class Zeros(NamedTuple):
    """So many bytes of nothing, which SQLite makes by itself."""

    length: int


Row = tuple[str, dict[str, Any]]
"""A table, and values by column."""

body = json.dumps({"v": 1, "id": "x", "handler": "note", "enqueued_ms": 1, "args": {}}).encode()

GOOD: dict[str, dict[str, Any]] = {
    "job": {"session": 0, "queue": "default", "id": "a", "attempt": 0, "due_ms": 0, "body": body},
    "scheduled": {"queue": "default", "id": "b", "attempt": 0, "due_ms": 0, "body": body},
    "dead": {
        "queue": "default",
        "id": "c",
        "attempts": 1,
        "died_ms": 1,
        "error": "an error",
        "traceback": "",
        "body": body,
    },
    "worker": {"queues": "default", "bell": "", "expires_ms": 0},
}

integers = st.sampled_from(
    [0, 1, -1, 7, 1 << 31, 1 << 53, (1 << 63) - 1, -(1 << 63), 253_402_300_799_999, 10**16]
)
texts = st.sampled_from(
    [
        *("", "0", "x", "default", "default,x", "\0", "a\nb", "\x1b[31m", "é" * 2000, "9" * 5000),
        *("../../x", "/", "..", FOREIGN_BELL, f"../{FOREIGN_BELL}"),
        *("row-1", "2024-01-01", "1e999", "'; --"),
    ]
)
raw = st.sampled_from([b"", b"\xff", b"\xc3\x28", b"\xed\xa0\x80", b"a\0\xfe", b"{}", body])
values = st.one_of(
    st.none(),
    integers,
    st.sampled_from([0.5, -0.5, 1e300, float("inf"), float("-inf"), float("nan")]),
    texts,
    raw,
    raw.map(BadText),
    st.just(Zeros(1 << 20)),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.binary(max_size=20).map(BadText),
)


@st.composite
def rows(draw: st.DrawFn) -> Row:
    """A row with something wrong in up to three of its columns; its number may be any."""
    table = draw(st.sampled_from(sorted(GOOD)))
    row = dict(GOOD[table])
    number = "session" if table == "worker" else "seq"
    bad = draw(st.lists(st.sampled_from([*row, number]), min_size=1, max_size=3, unique=True))
    for column in bad:
        row[column] = draw(integers if column == number else values)
    return table, row


def insert(path: Path, poison: list[Row]) -> int:
    """Write these as another program would; returns how many SQLite took."""
    taken = 0
    with contextlib.closing(sqlite3.connect(path, timeout=20)) as connection:
        for table, row in poison:
            marks, given = [], []
            for value in row.values():
                marks.append(
                    "CAST(? AS TEXT)"
                    if isinstance(value, BadText)
                    else "zeroblob(?)"
                    if isinstance(value, Zeros)
                    else "?"
                )
                given.append(value[0] if isinstance(value, BadText | Zeros) else value)
            statement = (
                f"INSERT INTO offload_{table} ({', '.join(row)}) VALUES ({', '.join(marks)})"
            )
            with contextlib.suppress(sqlite3.IntegrityError), connection:
                connection.execute(statement, given)
                taken += 1
    return taken


def loosen(path: Path) -> None:
    """Copy every table to one without types and constraints, under its name."""
    with contextlib.closing(sqlite3.connect(path, timeout=20)) as connection, connection:
        for table, columns in GOOD.items():
            number = "session" if table == "worker" else "seq"
            names = [
                f"{column} DEFAULT 0" if column in ("session", "attempt") else column
                for column in columns
            ]
            connection.execute(f"DROP TABLE offload_{table}")
            connection.execute(
                f"CREATE TABLE offload_{table} ({number} INTEGER PRIMARY KEY, {', '.join(names)})"
            )


async def make_tables(path: Path) -> None:
    """Let there be tables, as the first who stores or consumes makes them."""
    async with offload.connect(f"sqlite:///{path}"):
        pass
