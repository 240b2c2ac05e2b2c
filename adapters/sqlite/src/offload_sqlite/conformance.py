"""What the conformance kit can't know of SQLite by itself: how bytes get into the file.

A pytest plugin, which `offload certify sqlite:///…` loads. Nothing else imports it.
"""

from __future__ import annotations

import contextlib
import itertools
import secrets
import sqlite3
from pathlib import Path

import pytest

from offload.config import parse_address
from offload_conformance.authors import Fresh, Inject
from offload_sqlite.options import database_path


@pytest.fixture
def offload_inject(offload_url: str) -> Inject:
    """Writes bytes into the table of jobs, as another program could."""
    return inject_into(database_path(parse_address(offload_url)))


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
        statement = f'INSERT INTO "{namespace}_job" (queue, id, due_ms, body) VALUES (?, ?, 0, ?)'
        with contextlib.closing(sqlite3.connect(path)) as connection, connection:
            connection.execute(statement, (queue, secrets.token_hex(8), body))

    return inject
