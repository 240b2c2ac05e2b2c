"""The tables, and how they are made.

    job         waiting (session 0) and leased (the session of a worker); `seq` is the order
    scheduled   due later; moves to the end of `job` when it is due
    dead        dead letters
    worker      a session for each consuming worker, and until when its leases last, or, negative,
                when it is dead unless it extends them

A lease belongs to a session, not to a job: holding a thousand jobs costs one
row's update. What fences a late verdict is the pair of session and attempt.
"""

from __future__ import annotations

import sqlite3

from offload import BackendError

VERSION = 1

_TABLES = """
CREATE TABLE "{ns}_job" (
    seq INTEGER PRIMARY KEY,
    session INTEGER NOT NULL DEFAULT 0,
    queue TEXT NOT NULL,
    id TEXT NOT NULL,
    attempt INTEGER NOT NULL DEFAULT 0,
    due_ms INTEGER NOT NULL,
    body BLOB NOT NULL
);
CREATE INDEX "{ns}_job_order" ON "{ns}_job" (session, queue, seq);
CREATE TABLE "{ns}_scheduled" (
    seq INTEGER PRIMARY KEY,
    queue TEXT NOT NULL,
    id TEXT NOT NULL,
    attempt INTEGER NOT NULL DEFAULT 0,
    due_ms INTEGER NOT NULL,
    body BLOB NOT NULL
);
CREATE INDEX "{ns}_scheduled_due" ON "{ns}_scheduled" (due_ms, seq);
CREATE TABLE "{ns}_dead" (
    seq INTEGER PRIMARY KEY,
    queue TEXT NOT NULL,
    id TEXT NOT NULL UNIQUE,
    attempts INTEGER NOT NULL,
    died_ms INTEGER NOT NULL,
    error TEXT NOT NULL,
    traceback TEXT NOT NULL,
    body BLOB NOT NULL
);
CREATE TABLE "{ns}_worker" (
    session INTEGER PRIMARY KEY,
    queues TEXT NOT NULL,
    bell TEXT NOT NULL,
    expires_ms INTEGER NOT NULL
);
CREATE TABLE "{ns}_schema" (version INTEGER NOT NULL);
INSERT INTO "{ns}_schema" VALUES ({version})
"""


def create(connection: sqlite3.Connection, prefix: str) -> None:
    """Make the tables whose names begin so, inside a transaction."""
    for statement in _TABLES.format(ns=prefix, version=VERSION).split(";"):
        connection.execute(statement)


def is_there(connection: sqlite3.Connection, prefix: str) -> bool:
    """Whether there are tables whose names begin so.

    Raises:
        BackendError: a newer release made them.
    """
    found = connection.execute(
        "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?", (f"{prefix}_schema",)
    ).fetchone()
    if found is None:
        return False
    versions = connection.execute(
        f'SELECT DISTINCT quote(version) FROM "{prefix}_schema"'
    ).fetchall()
    if versions != [(str(VERSION),)]:
        found_versions = ", ".join(version for (version,) in versions) or "none"
        raise BackendError(
            f"the tables {prefix}_… are of version {found_versions}; "
            f"this release knows version {VERSION}"
        )
    return True
