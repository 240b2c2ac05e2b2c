"""The asyncio side: the store behind one thread."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from datetime import timedelta

from offload import Entry, QueueCounts, StoredDeadLetter
from offload.config import Config
from offload_sqlite.database import Database
from offload_sqlite.file import DatabaseFile
from offload_sqlite.options import (
    BUSY_TIMEOUT,
    LEASE,
    MODE,
    SYNCHRONOUS,
    database_path,
    table_prefix,
)
from offload_sqlite.store import Store
from offload_sqlite.subscription import SqliteSubscription
from offload_sqlite.sync_store import SyncStore
from offload_sqlite.thread import StoreThread

# A child must not close its parent's connections, not even by forgetting them.
_inherited: list[Store] = []


def _forget(database: Database, thread: StoreThread) -> None:
    """Close what a driver had open that nobody closed: an event loop may just vanish."""
    if not thread.is_inherited:
        thread.submit(database.close)
    thread.end(wait=False)


class SqliteDriver:
    """Jobs in one SQLite file."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._file = DatabaseFile(database_path(config.address), config[MODE])
        self._prefix = table_prefix(config)
        self._sync_store: SyncStore | None = None

    def _database(self, busy_timeout: timedelta) -> Database:
        return Database(self._file, self._prefix, self._config[SYNCHRONOUS], busy_timeout)

    async def open(self) -> None:
        # All anew each time: a call of a former life may still be under way in its thread.
        database = self._database(self._config[BUSY_TIMEOUT])
        thread = StoreThread()
        try:
            await thread.call(database.open)
        except BaseException:
            thread.submit(database.close)
            thread.end(wait=False)
            raise
        self._store, self._thread = Store(database), thread
        self._when_forgotten = weakref.finalize(self, _forget, database, thread)
        self._when_forgotten.atexit = False

    async def close(self) -> Sequence[str]:
        self._when_forgotten.detach()
        if self._thread.is_inherited:
            _inherited.append(self._store)
            return ()
        try:
            await self._thread.call(self._store.database.close)
        except BaseException:
            self._thread.end(wait=False)
            raise
        self._thread.end(wait=True)
        return ()

    async def enqueue(self, entries: Sequence[Entry]) -> None:
        await self._thread.call(self._store.enqueue, entries)

    def enqueue_sync(self, entries: Sequence[Entry]) -> None:
        store = self._sync_store
        if store is None:
            store = self._sync_store = SyncStore(self._database, self._config[BUSY_TIMEOUT])
        store.enqueue(entries)

    def close_sync(self) -> None:
        store, self._sync_store = self._sync_store, None
        if store is not None:
            store.end()

    async def subscribe(self, queues: Sequence[str]) -> SqliteSubscription:
        lease = self._config[LEASE]
        return await SqliteSubscription.create(self._store, self._thread, queues, lease)

    async def counts(self) -> Mapping[str, QueueCounts]:
        return await self._thread.call(self._store.counts)

    async def list_dead(self, limit: int, after: str | None) -> Sequence[StoredDeadLetter]:
        return await self._thread.call(self._store.dead_letters.page, limit, after)

    async def show_dead(self, job_id: str) -> StoredDeadLetter | None:
        return await self._thread.call(self._store.dead_letters.show, job_id)

    async def requeue_dead(self, ids: Sequence[str]) -> Sequence[str]:
        return await self._thread.call(self._store.dead_letters.requeue, ids)

    async def discard_dead(self, ids: Sequence[str]) -> Sequence[str]:
        return await self._thread.call(self._store.dead_letters.discard, ids)
