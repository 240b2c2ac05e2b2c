"""Slips in the SQL that stores jobs: the names of queues and namespaces, order, due times."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec

from offload import Delivery, Entry
from offload_mutants.registry import mutant
from offload_mutants.sql_driver import SqlDriver

# Names.


@mutant("QUE-1", "QUE-2", base="sql")
class MatchesQueuesWithLike(SqlDriver):
    """`queue LIKE ?`, where `_` in a name stands for any character."""

    of_queue = "namespace = ? AND queue LIKE ?"


@mutant("QUE-1", "QUE-2", base="sql")
class ComparesQueuesWithoutCase(SqlDriver):
    """Has the default collation of its database, to which `Mail` and `mail` are equal."""

    of_queue = "namespace = ? AND queue = ? COLLATE NOCASE"


@mutant("QUE-1", "QUE-2", base="sql")
class FindsTheQueueInsideAName(SqlDriver):
    """Joins the names of its queues and searches in them, so that `mailing` brings `mail` too."""

    of_queue = "namespace = ? AND instr(?, queue)"


@mutant("DIST-5", base="sql")
class KeepsNamespaceAndQueueInOneColumn(SqlDriver):
    """Compares `namespace-queue`: `a` with `b-c` is `a-b` with `c`."""

    of_queue = "namespace || '-' || queue = ? || '-' || ?"


@mutant("DIST-5", base="sql")
class ComparesNamespacesWithoutCase(SqlDriver):
    """Has the default collation of its database, in the column of the namespace."""

    of_queue = "namespace = ? COLLATE NOCASE AND queue = ?"


@mutant("DIST-5", base="sql")
class FindsDeadLettersOfOthersById(SqlDriver):
    """Lists its own dead letters, and shows, requeues and discards whose id it is given."""

    of_letter = "? IS NOT NULL AND id = ?"


# What a job holds.


@mutant("ARGS-1", "DIST-4", base="sql")
class KeepsJobsAsJsonb(SqlDriver):
    """Has a column for JSON, which knows no order of keys: the shorter ones come first."""

    def delivery(self, owner: str, row: Sequence[Any]) -> Delivery:
        delivery = super().delivery(owner, row)
        try:
            body = json.dumps(_normal(json.loads(delivery.body))).encode()
        except (ValueError, RecursionError):
            return delivery
        return msgspec.structs.replace(delivery, body=body)


def _normal(value: Any) -> Any:
    if isinstance(value, list):
        return [_normal(each) for each in value]
    if not isinstance(value, dict):
        return value
    return {key: _normal(value[key]) for key in sorted(value, key=lambda key: (len(key), key))}


# Order.


@mutant("TIME-7", base="sql")
class TakesThemInTheOrderOfTheirRows(SqlDriver):
    """`WHERE due <= now ORDER BY id`: of those that are due, the first to be stored is first."""

    order = "seq"

    def claim(self, owner: str, queue: str, limit: int) -> list[Delivery]:
        return sorted(super().claim(owner, queue, limit), key=lambda each: each.receipt[0])


@mutant("TIME-7", base="sql")
class FiltersAfterItsLimit(SqlDriver):
    """Takes the first rows of a queue, and of these the ones that are due."""

    def claim(self, owner: str, queue: str, limit: int) -> list[Delivery]:
        now = self.now()
        first = self.db.execute(
            f"SELECT seq, due_ms FROM jobs WHERE {self.of_queue} AND lease_ms <= ? "
            "ORDER BY seq LIMIT ?",
            (self.namespace, queue, now, limit),
        ).fetchall()
        due = [str(seq) for seq, due_ms in first if due_ms <= now]
        rows = self.db.execute(
            "UPDATE jobs SET owner = ?, attempt = attempt + 1, lease_ms = ? "
            f"WHERE seq IN ({', '.join(due)}) RETURNING due_ms, seq, id, queue, body, attempt",
            (owner, self.lease_end()),
        ).fetchall()
        return [self.delivery(owner, row) for row in sorted(rows)]


@mutant("QUE-3", base="sql")
class AsksForAllQueuesAtOnce(SqlDriver):
    """`WHERE queue IN (…) ORDER BY due LIMIT n`: the fullest queue comes first, to its end."""

    def fetch(self, owner: str, queues: Sequence[str], limit: int) -> list[Delivery]:
        def oldest(queue: str) -> int:
            found: int | None = self.db.execute(
                f"SELECT MIN(due_ms) FROM jobs WHERE {self.of_queue} AND lease_ms <= ?",
                (self.namespace, queue, self.now()),
            ).fetchone()[0]
            return found or 0

        with_jobs = sorted(filter(self.has_work, queues), key=oldest)
        found: list[Delivery] = []
        with self.transaction():
            for queue in with_jobs:
                found += self.claim(owner, queue, limit - len(found))
        return found


# Due times.


@mutant("TIME-6", base="sql")
class EndsIn2038(SqlDriver):
    """Keeps the seconds of a due time in 32 bits, with a sign."""

    def due(self, entry: Entry, now: int) -> int:
        seconds, ms = divmod(super().due(entry, now), 1000)
        return ((seconds + 2**31) % 2**32 - 2**31) * 1000 + ms


@mutant("TIME-3", base="sql")
class HasNoSign(SqlDriver):
    """Keeps an instant in a column without a sign: one before 1970 is far in the future."""

    def due(self, entry: Entry, now: int) -> int:
        if entry.at_ms is not None and entry.at_ms < 0:
            return entry.at_ms % 2**62
        return super().due(entry, now)


@mutant("TIME-10", "TIME-5", base="sql")
class KeepsHundredthsOfASecond(SqlDriver):
    """`DECIMAL(12, 2)` seconds, rounded up so that nothing is early."""

    def due(self, entry: Entry, now: int) -> int:
        return -(-super().due(entry, now) // 10) * 10


@mutant("TIME-10", "TIME-2", "TIME-7", base="sql")
class CountsIntervalsInSeconds(SqlDriver):
    """`now() + INTERVAL ? SECOND` for a delay, rounded up; an instant is kept as it is."""

    def due(self, entry: Entry, now: int) -> int:
        seconds = -(-entry.delay_ms // 1000)
        return super().due(msgspec.structs.replace(entry, delay_ms=seconds * 1000), now)


@mutant("TIME-9", "TIME-7", base="sql")
class KeepsOneJobForEachInstant(SqlDriver):
    """Has a unique index on queue and due time, and `INSERT OR REPLACE`."""

    def store(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            if entry.delay_ms or entry.at_ms is not None:
                self.db.execute(
                    f"DELETE FROM jobs WHERE {self.of_queue} AND due_ms = ? AND due_ms > ?",
                    (self.namespace, entry.queue, self.due(entry, self.now()), self.now()),
                )
            super().store([entry])
