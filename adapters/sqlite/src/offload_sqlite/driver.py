"""The asyncio side: the store behind one thread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from offload import Entry, QueueCounts, StoredDeadLetter
from offload.config import NAMESPACE, Config
from offload_sqlite.options import BUSY_TIMEOUT, LEASE, SYNCHRONOUS, database_path
from offload_sqlite.store import Store
from offload_sqlite.subscription import SqliteSubscription
from offload_sqlite.thread import StoreThread


class SqliteDriver:
    """Jobs in one SQLite file."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._path = database_path(config.address)

    async def open(self) -> None:
        # Both anew each time: a call of a former life may still be under way in its thread.
        config = self._config
        store = Store(self._path, config[NAMESPACE], config[SYNCHRONOUS], config[BUSY_TIMEOUT])
        thread = StoreThread()
        try:
            await thread.call(store.open)
        except BaseException:
            thread.submit(store.close)
            thread.end(wait=False)
            raise
        self._store, self._thread = store, thread

    async def close(self) -> Sequence[str]:
        try:
            await self._thread.call(self._store.close)
        except BaseException:
            self._thread.end(wait=False)
            raise
        self._thread.end(wait=True)
        return ()

    async def enqueue(self, entries: Sequence[Entry]) -> None:
        await self._thread.call(self._store.enqueue, entries)

    async def subscribe(self, queues: Sequence[str]) -> SqliteSubscription:
        return await SqliteSubscription.create(
            self._store,
            self._thread,
            queues,
            lease=self._config[LEASE],
            busy_timeout=self._config[BUSY_TIMEOUT],
        )

    async def counts(self) -> Mapping[str, QueueCounts]:
        return await self._thread.call(self._store.counts)

    async def list_dead(self, limit: int, after: str | None) -> Sequence[StoredDeadLetter]:
        return await self._thread.call(self._store.list_dead, limit, after)

    async def show_dead(self, job_id: str) -> StoredDeadLetter | None:
        return await self._thread.call(self._store.show_dead, job_id)

    async def requeue_dead(self, ids: Sequence[str]) -> Sequence[str]:
        return await self._thread.call(self._store.requeue_dead, ids)

    async def discard_dead(self, ids: Sequence[str]) -> Sequence[str]:
        return await self._thread.call(self._store.discard_dead, ids)
