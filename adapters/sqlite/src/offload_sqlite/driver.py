"""The asyncio side: the store behind one thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, TypeVarTuple

from offload import Entry, QueueCounts, StoredDeadLetter
from offload.config import NAMESPACE, Config
from offload_sqlite.options import BUSY_TIMEOUT, LEASE, SYNCHRONOUS, database_path
from offload_sqlite.store import Store
from offload_sqlite.subscription import SqliteSubscription

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class SqliteDriver:
    """Jobs in one SQLite file."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._store = Store(
            database_path(config.address),
            config[NAMESPACE],
            config[SYNCHRONOUS],
            config[BUSY_TIMEOUT],
        )

    async def open(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="offload-sqlite")
        try:
            await self._call(self._store.open)
        except BaseException:
            self._thread.shutdown(wait=False)
            raise

    async def close(self) -> Sequence[str]:
        try:
            await self._call(self._store.close)
        finally:
            self._thread.shutdown(wait=False)
        return ()

    async def enqueue(self, entries: Sequence[Entry]) -> None:
        await self._call(self._store.enqueue, entries)

    async def subscribe(self, queues: Sequence[str]) -> SqliteSubscription:
        return await SqliteSubscription.create(
            self._store,
            self._call,
            queues,
            lease=self._config[LEASE],
            busy_timeout=self._config[BUSY_TIMEOUT],
        )

    async def counts(self) -> Mapping[str, QueueCounts]:
        return await self._call(self._store.counts)

    async def list_dead(self, limit: int, after: str | None) -> Sequence[StoredDeadLetter]:
        return await self._call(self._store.list_dead, limit, after)

    async def show_dead(self, job_id: str) -> StoredDeadLetter | None:
        return await self._call(self._store.show_dead, job_id)

    async def requeue_dead(self, ids: Sequence[str]) -> Sequence[str]:
        return await self._call(self._store.requeue_dead, ids)

    async def discard_dead(self, ids: Sequence[str]) -> Sequence[str]:
        return await self._call(self._store.discard_dead, ids)

    async def _call(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """Run a call of the store in its thread. Cancelled here, it still ends there."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, function, *args)
