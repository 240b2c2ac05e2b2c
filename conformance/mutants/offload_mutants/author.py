"""What the author of an adapter adds for the kit, here for SQLite: a pytest plugin of fixtures.

`PYTEST_PLUGINS=offload_mutants.author offload certify sqlite:////tmp/jobs.db` uses it.
"""

from __future__ import annotations

import contextlib
import secrets
import sqlite3

import pytest

from offload.config import parse_address
from offload_conformance.lab import Inject


@pytest.fixture
def offload_inject(offload_url: str) -> Inject | None:
    """Writes bytes into the table of jobs, as another program could."""
    address = parse_address(offload_url)
    return inject_into(address.path[1:]) if address.path else None


def inject_into(path: str) -> Inject:
    """Inject bytes into the database at this path."""

    async def inject(namespace: str, queue: str, body: bytes) -> None:
        statement = f'INSERT INTO "{namespace}_job" (queue, id, due_ms, body) VALUES (?, ?, 0, ?)'
        with contextlib.closing(sqlite3.connect(path)) as connection, connection:
            connection.execute(statement, (queue, secrets.token_hex(8), body))

    return inject
