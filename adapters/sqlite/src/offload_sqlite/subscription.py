"""The consuming side: a session in the database, and a bell beside it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Self

from offload import Delivery, Fetched, Settlement, Verdict
from offload_sqlite.bell import POLL_SECONDS, Bell
from offload_sqlite.errors import SessionLostError
from offload_sqlite.forks import Gate
from offload_sqlite.keeper import Keeper
from offload_sqlite.store import Store
from offload_sqlite.thread import StoreThread

log = logging.getLogger("offload")


class SqliteSubscription:
    """Leases jobs for one worker."""

    def __init__(
        self,
        store: Store,
        thread: StoreThread,
        queues: Sequence[str],
        lease: timedelta,
    ) -> None:
        self._store = store
        self._thread = thread
        self._queues = queues
        self.lease = lease
        self._session = 0
        self._lost = -1
        """The last session whose leases could not be extended."""
        self._fetched: Sequence[Delivery] = ()
        self._gate = Gate()
        self._bell: Bell | None = None
        self._is_deaf = False
        self._rung = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._keeper = Keeper(store.database, store.sessions)

    @classmethod
    async def create(
        cls,
        store: Store,
        thread: StoreThread,
        queues: Sequence[str],
        lease: timedelta,
    ) -> Self:
        """Begin a session."""
        subscription = cls(store, thread, queues, lease)
        try:
            await thread.call(subscription._begin)
        except BaseException:
            thread.submit(subscription._end)
            raise
        if subscription._bell is not None:
            subscription._bell.listen(subscription._rung.set)
        return subscription

    async def fetch(self, limit: int) -> Fetched:
        self._rung.clear()
        try:
            return await self._thread.call(self._fetch, limit)
        except asyncio.CancelledError:
            # It runs to its end in the thread all the same; what it takes goes back behind it.
            self._thread.submit(self._give_back)
            raise

    async def wait(self, timeout: float) -> None:
        # Also to look for workers that have died; without a bell, for work.
        timeout = min(timeout, self._store.sessions.seconds_to_reaping)
        if not self._can_be_rung():
            timeout = min(timeout, POLL_SECONDS)
        timer = asyncio.get_running_loop().call_later(timeout, self._rung.set)
        try:
            await self._rung.wait()
        finally:
            timer.cancel()

    def _can_be_rung(self) -> bool:
        if self._bell is None or self._is_deaf:
            return False
        if not self._bell.can_be_rung():
            self._is_deaf = True
            log.warning("the named pipe %s was removed; polling instead", self._bell.path)
        return not self._is_deaf

    async def settle(self, settlements: Sequence[Settlement]) -> Collection[Delivery]:
        return await self._thread.call(self._store.settle, settlements)

    def extend(self, deliveries: Collection[Delivery]) -> Collection[Delivery]:
        """All leases of a session are one; those of a session before are lost."""
        session = self._session
        with self._gate:
            held = self._keeper.extend(session, self.lease)
        if held:
            return [each for each in deliveries if each.receipt[1] != session]
        self._lost = session
        with suppress(RuntimeError):  # the loop was closed without a stop
            self._loop.call_soon_threadsafe(self._rung.set)
        return deliveries

    async def close(self) -> None:
        if self._thread.is_inherited:
            return  # all of it is the parent's: its session, its pipe and its event loop
        if self._bell is not None:
            self._bell.stop_listening()
        await self._thread.call(self._end)

    # -- in the store's thread ------------------------------------------------

    def _begin(self) -> None:
        self._session = self._store.sessions.begin(self._queues, self._ensure_bell, self.lease)

    def _ensure_bell(self) -> str:
        """Make the bell, the first time, and return its name.

        Called inside the transaction that begins the session: no other
        process can see a worker whose bell isn't there yet, and take it for dead.
        """
        if self._bell is None:
            try:
                self._bell = self._store.sessions.bells_of_all.make()
            except OSError as error:
                path = self._store.database.path
                log.info("no named pipe beside %s (%s); polling instead", path, error)
                return ""
        return self._bell.path.name

    def _end(self) -> None:
        try:
            self._keeper.close()
            if self._session:
                self._store.sessions.end(self._session)
        finally:
            if self._bell is not None:
                self._bell.close()

    def _fetch(self, limit: int) -> Fetched:
        try:
            if self._lost == self._session:
                self._begin_again()
            fetched = self._store.fetch(self._session, self._queues, limit)
        except SessionLostError:
            # Frozen for longer than the lease, and taken for dead, for example.
            self._begin_again()
            fetched = self._store.fetch(self._session, self._queues, limit)
        self._fetched = fetched.deliveries
        return fetched

    def _begin_again(self) -> None:
        self._store.sessions.give_up(self._session)
        self._begin()

    def _give_back(self) -> None:
        """Nobody heard of what the last fetch took: as if it had taken nothing."""
        fetched, self._fetched = self._fetched, ()
        self._store.settle([Settlement(each, Verdict.RELEASE) for each in reversed(fetched)])
