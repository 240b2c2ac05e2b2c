"""DIST-7, DIST-8: slips that show when one of several processes, or their backend, has gone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from offload import BackendUnavailableError, Delivery, Fetched
from offload_mutants import net_wire as wire
from offload_mutants.benign_net import NOT_DURABLE
from offload_mutants.net_driver import NetDriver, NetSubscription
from offload_mutants.registry import mutant
from offload_mutants.sql_driver import SqlDriver
from offload_mutants.sql_tables import SCHEMA


@mutant("DIST-7", base="net", claims=NOT_DURABLE)
class PopsAndStatesARecovery(NetDriver):
    """Forgets what it hands over, and states that this runs again."""

    backend = (wire.FORGETS, wire.POPS)


@mutant("DIST-7", "DUR-2", "DUR-6", "DUR-8", base="sql")
class TakesACrashForAStop(SqlDriver):
    """Frees what the dead have left as a stop does, without their attempt."""

    def claim(self, owner: str, queue: str, limit: int) -> list[Delivery]:
        self.db.execute(
            "UPDATE jobs SET owner = NULL, attempt = attempt - 1 "
            "WHERE owner IS NOT NULL AND lease_ms <= ?",
            (self.now(),),
        )
        return super().claim(owner, queue, limit)


@mutant("DIST-7", base="sql")
class RecoversIntoTheDefaultQueue(SqlDriver):
    """Stores anew what the dead have left, in the queue where most jobs are."""

    def claim(self, owner: str, queue: str, limit: int) -> list[Delivery]:
        self.db.execute(
            "UPDATE jobs SET owner = NULL, queue = 'default' "
            "WHERE owner IS NOT NULL AND lease_ms <= ?",
            (self.now(),),
        )
        return super().claim(owner, queue, limit)


@mutant("DIST-7", "DIST-1", "DIST-3", "DIST-6", "CONC-4", "DUR-1", "DUR-2", "DUR-6", base="sql")
class HasAConsumerForEachQueue(SqlDriver):
    """Has the first that asks consume a queue, until it stops: one that is killed never does."""

    schema = SCHEMA + (
        "; CREATE TABLE IF NOT EXISTS consumers (namespace TEXT, queue TEXT, owner TEXT, "
        "UNIQUE (namespace, queue))"
    )

    def claim(self, owner: str, queue: str, limit: int) -> list[Delivery]:
        consumer = (self.namespace, queue, owner)
        self.db.execute("INSERT OR IGNORE INTO consumers VALUES (?, ?, ?)", consumer)
        query = "SELECT 1 FROM consumers WHERE namespace = ? AND queue = ? AND owner = ?"
        if self.db.execute(query, consumer).fetchone() is None:
            return []
        return super().claim(owner, queue, limit)

    def release_all(self, owner: str) -> None:
        self.db.execute("DELETE FROM consumers WHERE owner = ?", (owner,))
        super().release_all(owner)


class _EndsWithAnError(NetSubscription):
    has_failed = False

    async def fetch(self, limit: int) -> Fetched:
        if self.has_failed:
            return Fetched([])
        try:
            return await super().fetch(limit)
        except BackendUnavailableError:
            self.has_failed = True
            raise


@mutant("DIST-8", "DUR-3", "DUR-5", "DUR-9", base="net", quick=False)
class ItsConsumerEndsWithAnError(NetDriver):
    """Has a loop that consumes, and leaves it when it raises; it performs as before."""

    async def subscribe(self, queues: Sequence[str]) -> NetSubscription:
        return _EndsWithAnError(self, queues)


@mutant("DIST-8", "LIFE-4", "PERF-8", base="net", claims=NOT_DURABLE, quick=False)
class SparesItsBackendForTooLong(NetDriver):
    """Has a breaker: what has failed isn't tried for ten seconds, which is more than it states."""

    open_until = 0.0

    async def call(self, request: wire.AnyRequest) -> Any:
        if time.monotonic() < self.open_until and not isinstance(request, wire.Enqueue):
            raise BackendUnavailableError("not tried: it failed a moment ago")
        try:
            return await super().call(request)
        except BackendUnavailableError:
            self.open_until = time.monotonic() + 10
            raise
