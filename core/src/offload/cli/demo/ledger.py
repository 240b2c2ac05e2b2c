"""What the demo planned and what it knows: each item exactly once, over every kill.

A backend delivers at least once. So a job may run twice, or be performed twice
by a demo that was killed between performing a batch and noting that it did.
What makes the numbers exact is that a result is written under its item's key,
before the job is acknowledged, and only the first one counts.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import sqlite3
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from offload.config import Address

_FORMAT = 1
"""Part of the file's name, so that another release's ledger is never read."""

_TABLES = """
CREATE TABLE run (id TEXT NOT NULL);
CREATE TABLE item (
    seq INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    path TEXT NOT NULL,
    delay REAL NOT NULL,
    enqueued INTEGER NOT NULL DEFAULT 0,
    outcome TEXT,
    attempt INTEGER,
    lateness REAL,
    size INTEGER,
    digest TEXT,
    words INTEGER,
    note TEXT,
    UNIQUE (kind, path)
)
"""


class Kind(StrEnum):
    """What a job does; its value is the name of the handler."""

    FILE = "demo.file"
    """Read a file."""
    RECHECK = "demo.recheck"
    """Read it again later: scheduled."""
    FLAKY = "demo.flaky"
    """Fail twice, then succeed."""
    DOOMED = "demo.doomed"
    """End as a dead letter."""


class Outcome(StrEnum):
    """How an item ended."""

    DONE = "done"
    GONE = "gone"
    """The file could not be read when its job ran."""
    DEAD = "dead"
    """The job is a dead letter."""


class Item(NamedTuple):
    """Something to perform a job for."""

    kind: Kind
    path: str = ""
    """The file, relative to the folder; empty for what concerns none."""
    delay: float = 0.0
    """Seconds from performing it until it is due."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What is known of an item in the end."""

    outcome: Outcome
    attempt: int = 0
    lateness: float | None = None
    """Seconds after its due time at which a scheduled job began."""
    size: int | None = None
    digest: str | None = None
    words: int | None = None
    note: str | None = None


class Ledger:
    """Items and results, in a SQLite database of the demo's own. Safe from any thread."""

    def __init__(self, path: Path | None) -> None:
        """Open the ledger in this file, or one in memory.

        Raises:
            sqlite3.Error: it is damaged, or (SQLITE_BUSY) another process works with it.
        """
        self._path = path
        self._lock = threading.Lock()
        if path is not None:
            # Private, and no link that somebody else put there.
            mode = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
            os.close(os.open(path, mode, 0o600))
        self._connection = sqlite3.connect(
            path or ":memory:", timeout=0, isolation_level=None, check_same_thread=False
        )
        try:
            self.is_resumed = self._open()
        except BaseException:
            self._connection.close()
            raise
        self.repeats = 0
        """Jobs that ran here though their item had its result already."""
        self.strangers = 0
        """Jobs that ran here and belong to an earlier plan, whose ledger is gone."""

    def _open(self) -> bool:
        # The lock is held until the connection is closed, or the process is killed: one demo
        # at a time. No sync to the disk: a kill takes nothing from a file that was written.
        for pragma in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = OFF"):
            self._connection.execute(f"PRAGMA {pragma}")
        with self._transaction():
            found = self._connection.execute("SELECT 1 FROM sqlite_schema").fetchone()
            if found is None:
                for statement in _TABLES.split(";"):
                    self._connection.execute(statement)
            row = self._connection.execute("SELECT id FROM run").fetchone()
        self.run: str = row[0] if row else secrets.token_hex(8)
        """Names this plan in the args of its jobs, to tell them from those of an earlier one."""
        self.planned, self.open = self._count()
        return row is not None

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise

    def _count(self) -> tuple[int, int]:
        row: tuple[int, int] = self._connection.execute(
            "SELECT count(*), count(*) - count(outcome) FROM item"
        ).fetchone()
        return row

    # -- the plan --------------------------------------------------------------

    def plan(self, items: Iterable[Item]) -> int:
        """Add what isn't planned yet, all or nothing; return how many that were."""
        before = self.planned
        with self._transaction():
            if not self.is_resumed:
                self._connection.execute("INSERT INTO run VALUES (?)", (self.run,))
            self._connection.executemany(
                "INSERT OR IGNORE INTO item (kind, path, delay) VALUES (?, ?, ?)", items
            )
            self.planned, self.open = self._count()
        return self.planned - before

    def unperformed(self, limit: int) -> list[Item]:
        """The next items for which no job was performed yet."""
        with self._lock:
            rows = self._connection.execute(
                "SELECT kind, path, delay FROM item WHERE NOT enqueued AND outcome IS NULL "
                "ORDER BY seq LIMIT ?",
                (limit,),
            ).fetchall()
        return [Item(Kind(kind), path, delay) for kind, path, delay in rows]

    def mark_performed(self, items: Iterable[Item]) -> None:
        """Note that the backend has accepted the jobs of these."""
        with self._transaction():
            self._connection.executemany(
                "UPDATE item SET enqueued = 1 WHERE kind = ? AND path = ?",
                [(item.kind, item.path) for item in items],
            )

    def forget_performed(self) -> None:
        """Let a job be performed once more for every open item: the backend has none for it."""
        with self._transaction():
            self._connection.execute("UPDATE item SET enqueued = 0 WHERE outcome IS NULL")

    # -- the results -----------------------------------------------------------

    def knows(self, run: object) -> bool:
        """Whether a job belongs to this plan, or else is a stranger to be let go."""
        if run == self.run:
            return True
        with self._lock:
            self.strangers += 1
        return False

    def record(self, kind: Kind, path: str, result: Result) -> None:
        """Write down how an item ended, unless that is known."""
        values = (
            result.outcome,
            result.attempt,
            result.lateness,
            result.size,
            result.digest,
            result.words,
            result.note,
        )
        with self._lock:
            changed = self._connection.execute(
                "UPDATE item SET outcome = ?, attempt = ?, lateness = ?, size = ?, digest = ?, "
                "words = ?, note = ? WHERE kind = ? AND path = ? AND outcome IS NULL",
                (*values, kind, path),
            ).rowcount
            self.open -= changed
            if not changed and result.outcome is not Outcome.DEAD:  # that was only seen again
                self.repeats += 1

    def select(self, query: str, *values: object) -> Sequence[tuple[Any, ...]]:
        """The rows that a query of the table `item` brings."""
        with self._lock:
            return self._connection.execute(query, values).fetchall()

    # -- the file --------------------------------------------------------------

    def close(self) -> None:
        """Let go of the file, and keep it."""
        with self._lock:
            self._connection.close()

    def remove(self) -> None:
        """Close and delete: all is accounted for, and told."""
        self.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def digest_of(folder: Path, address: Address) -> str:
    """Names one folder on one backend: in the name of the ledger, and of the demo's queues."""
    text = f"{_FORMAT} {folder} {address} {address.query.get('namespace', '')}"
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:12]


def ledger_path(digest: str) -> Path:
    """Where the ledger of a durable backend is: in the folder for temporary files."""
    user = hashlib.sha256(str(Path.home()).encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return Path(tempfile.gettempdir()) / f"offload-demo-{user}-{digest}.db"
