"""The consuming side: a session in the database, and a bell beside it."""

from __future__ import annotations

import asyncio
import logging
import secrets
import sqlite3
from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import timedelta
from typing import Any, Self

from offload import Delivery, Fetched, Settlement
from offload_sqlite.bell import POLL_SECONDS, Bell
from offload_sqlite.errors import translate
from offload_sqlite.store import REAP_SECONDS, Store, connect

log = logging.getLogger("offload")

Call = Callable[..., Awaitable[Any]]
"""Runs a function of the store in the store's thread."""


class SqliteSubscription:
    """Leases jobs for one worker."""

    def __init__(
        self,
        store: Store,
        call: Call,
        queues: Sequence[str],
        lease: timedelta,
        busy_timeout: timedelta,
    ) -> None:
        self._store = store
        self._call = call
        self._queues = queues
        self.lease = lease
        self._busy_timeout = busy_timeout
        self._session = 0
        self._bell: Bell | None = None
        self._rung = asyncio.Event()
        self._keeper: sqlite3.Connection | None = None

    @classmethod
    async def create(
        cls,
        store: Store,
        call: Call,
        queues: Sequence[str],
        *,
        lease: timedelta,
        busy_timeout: timedelta,
    ) -> Self:
        """Register with the database."""
        subscription = cls(store, call, queues, lease, busy_timeout)
        try:
            await call(subscription._register)
        except BaseException:
            if subscription._bell is not None:
                subscription._bell.close()
            raise
        if subscription._bell is not None:
            subscription._bell.listen(subscription._rung.set)
        return subscription

    async def fetch(self, limit: int) -> Fetched:
        self._rung.clear()
        fetched: Fetched = await self._call(self._fetch, limit)
        return fetched

    async def wait(self, timeout: float) -> None:
        # Also to look for workers that have died; without a bell, for work.
        timeout = min(timeout, POLL_SECONDS if self._bell is None else REAP_SECONDS)
        timer = asyncio.get_running_loop().call_later(timeout, self._rung.set)
        try:
            await self._rung.wait()
        finally:
            timer.cancel()

    async def settle(self, settlements: Sequence[Settlement]) -> Collection[Delivery]:
        foreign: list[Delivery] = await self._call(self._store.settle, settlements)
        return foreign

    def extend(self, deliveries: Collection[Delivery]) -> Collection[Delivery]:
        """All leases of a session are one, so all are extended, or all are lost."""
        try:
            if self._keeper is None:
                # Its own, since the store's may be busy for longer than a lease lasts.
                self._keeper = connect(self._store.path, self._busy_timeout)
            held = self._store.extend_worker(self._keeper, self._session, self.lease)
        except sqlite3.Error as error:
            raise translate(error, self._store.path) from error
        return () if held else deliveries

    async def close(self) -> None:
        try:
            await self._call(self._store.remove_worker, self._session)
        finally:
            if self._keeper is not None:
                self._keeper.close()
            if self._bell is not None:
                self._bell.close()

    # -- in the store's thread ------------------------------------------------

    def _register(self) -> None:
        self._session = self._store.register_worker(self._queues, self._ensure_bell, self.lease)

    def _ensure_bell(self) -> str:
        """Make the bell, the first time. Called inside the transaction that registers it, so
        that no other process can see a worker without its bell, and take it for dead.
        """
        if self._bell is None:
            path = self._store.path
            path = path.with_name(f"{path.name}-worker-{secrets.token_hex(8)}")
            try:
                self._bell = Bell(path)
            except OSError as error:
                log.info("no named pipe at %s (%s); polling instead", path, error)
                return ""
        return self._bell.path.name

    def _fetch(self, limit: int) -> Fetched:
        if not self._store.is_registered(self._session):
            # Frozen for longer than the lease, and taken for dead: begin anew.
            self._register()
        return self._store.fetch(self._session, self._queues, limit)
