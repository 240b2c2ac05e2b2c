"""What the conformance kit can't know of SQLite by itself: how bytes get into the file.

A pytest plugin, which `offload certify sqlite:///…` loads. Nothing else imports it.
"""

from __future__ import annotations

import contextlib
import secrets
import sqlite3
from pathlib import Path

import pytest

from offload.config import parse_address
from offload_conformance.authors import Inject
from offload_sqlite.options import database_path


@pytest.fixture
def offload_inject(offload_url: str) -> Inject:
    """Writes bytes into the table of jobs, as another program could."""
    return inject_into(database_path(parse_address(offload_url)))


def inject_into(path: Path) -> Inject:
    """Inject bytes into the database at this path."""

    async def inject(*, namespace: str, queue: str, body: bytes) -> None:
        statement = f'INSERT INTO "{namespace}_job" (queue, id, due_ms, body) VALUES (?, ?, 0, ?)'
        with contextlib.closing(sqlite3.connect(path)) as connection, connection:
            connection.execute(statement, (queue, secrets.token_hex(8), body))

    return inject
