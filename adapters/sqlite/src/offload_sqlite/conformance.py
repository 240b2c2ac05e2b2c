"""What the conformance kit can't know of SQLite by itself: how jobs get into the file, and out.

A pytest plugin, which `offload certify sqlite:///…` loads. Nothing else imports it.
"""

from __future__ import annotations

import contextlib
import itertools
import secrets
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from offload.config import parse_address
from offload_conformance.authors import Fresh, GoldenStates, Inject
from offload_sqlite.options import database_path, without_capitals

FILE = "<database>"
"""Stands for the name of the file in what releases have left."""


@pytest.fixture
def offload_inject(offload_url: str) -> Inject:
    """Writes bytes into the table of jobs, as another program could."""
    return inject_into(database_path(parse_address(offload_url)))


@pytest.fixture
def offload_golden_states(offload_url: str) -> GoldenStates:
    """What releases have left, as SQL."""
    return SqliteStates(database_path(parse_address(offload_url)))


@pytest.fixture
def offload_fresh(offload_url: str, tmp_path: Path) -> Fresh:
    """Files that nobody has opened."""
    return fresh_files(offload_url, tmp_path)


def fresh_files(url: str, folder: Path) -> Fresh:
    """Config strings like this one, each for a new file in a folder."""
    start, mark, query = url.partition("?")
    scheme = start.partition(":")[0]
    numbers = itertools.count(1)
    return lambda: f"{scheme}:///{folder}/fresh-{next(numbers)}.db{mark}{query}"


def inject_into(path: Path) -> Inject:
    """Inject bytes into the database at this path."""

    async def inject(*, namespace: str, queue: str, body: bytes) -> None:
        table = f"{without_capitals(namespace)}_job"
        statement = f'INSERT INTO "{table}" (queue, id, due_ms, body) VALUES (?, ?, 0, ?)'
        with contextlib.closing(sqlite3.connect(path)) as connection, connection:
            connection.execute(statement, (queue, secrets.token_hex(8), body))

    return inject


class SqliteStates:
    """The tables of a namespace as SQL, as `.dump` of SQLite's own program gives it."""

    folder = Path(__file__).with_name("golden")
    beside = ("wire-1",)

    def __init__(self, path: Path) -> None:
        self._path = path

    async def read(self, *, namespace: str) -> str:
        with contextlib.closing(sqlite3.connect(self._path)) as connection:
            text = "".join(f"{line};\n" for line in _dump(connection, f"{namespace}_"))
        return text.replace(self._path.name, FILE)  # in the names of bells

    async def lay(self, *, namespace: str, state: str) -> None:
        with contextlib.closing(sqlite3.connect(self._path)) as connection:
            mode, _, rest = state.partition("\n")
            rest = rest.replace(FILE, self._path.name)
            connection.executescript(f"{mode} BEGIN IMMEDIATE; {rest} COMMIT;")


def _dump(connection: sqlite3.Connection, prefix: str) -> Iterator[str]:
    (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
    yield f"PRAGMA journal_mode = {mode}"
    found = connection.execute(
        "SELECT type, name, sql FROM sqlite_schema "
        "WHERE substr(tbl_name, 1, ?) = ? AND sql IS NOT NULL ORDER BY tbl_name, type DESC, name",
        (len(prefix), prefix),
    ).fetchall()
    for kind, name, sql in found:
        yield sql.replace(f"CREATE {kind.upper()}", f"CREATE {kind.upper()} IF NOT EXISTS", 1)
        if kind == "table":
            yield from _rows(connection, name)


def _rows(connection: sqlite3.Connection, table: str) -> Iterator[str]:
    columns = [name for _, name, *_ in connection.execute(f'PRAGMA table_info("{table}")')]
    names = ", ".join(columns)
    # A body is JSON, which people can read; whatever else is in a blob comes in digits.
    values = " || ', ' || ".join(
        f"CASE typeof({each}) WHEN 'blob' THEN CASE WHEN json_valid(CAST({each} AS TEXT)) "
        f"THEN 'CAST(' || quote(CAST({each} AS TEXT)) || ' AS BLOB)' ELSE quote({each}) END "
        f"ELSE quote({each}) END"
        for each in columns
    )
    for (row,) in connection.execute(f'SELECT {values} FROM "{table}" ORDER BY rowid'):
        yield f'INSERT INTO "{table}" ({names})\n  VALUES ({row})'
