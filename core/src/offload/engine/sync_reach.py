"""How the threads of one worker reach the backend without an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Sequence
from typing import cast

from offload.driver import Driver, Entry, SyncEnqueue
from offload.engine.connection import tell_of_close
from offload.engine.logs import engine_log, write
from offload.engine.states import Life
from offload.engine.stop_budget import StopBudget
from offload.engine.sync_outbox import SyncOutbox


class _Connection:
    """What a driver has open for threads, perhaps."""

    def __init__(self, driver: SyncEnqueue, note_claims: Callable[[], None]) -> None:
        self._driver = driver
        self._note_claims = note_claims
        self.is_used = False
        """Whether there may be something to close."""
        self.closes_behind = False
        """Whether a call that outlasted a stop is to disconnect when it ends."""
        self._is_noted = False

    def enqueue(self, entries: Sequence[Entry]) -> None:
        self.is_used = True
        try:
            self._driver.enqueue_sync(entries)
            if not self._is_noted:
                self._is_noted = True
                self._note()
        finally:
            if self.closes_behind:
                self.close()

    def _note(self) -> None:
        try:
            self._note_claims()
        except Exception as error:  # no reason to fail a call that has stored its entries
            write(engine_log.error, "the driver can't tell of its claims", error=error)

    def close(self) -> None:
        self.is_used = self.closes_behind = self._is_noted = False
        try:
            self._driver.close_sync()
        except Exception as error:
            tell_of_close(error)


class SyncReach:
    """The plain calls of a driver that has them."""

    def __init__(self, life: Life, driver: Driver, note_claims: Callable[[], None]) -> None:
        self._has_way = isinstance(driver, SyncEnqueue)
        # Nothing here refers back, else what nobody has any more were not freed at once.
        self._connection = _Connection(cast("SyncEnqueue", driver), note_claims)
        self.outbox = SyncOutbox(self._connection.enqueue, life.refuse_if_stopped)

    @property
    def is_open(self) -> bool:
        """Whether the calling thread can send by this way."""
        return self._has_way and not self.outbox.is_amid

    @property
    def is_used(self) -> bool:
        """Whether something is under way, or may be open."""
        return self._connection.is_used or not self.outbox.is_idle

    async def leave(self, budget: StopBudget) -> None:
        """Disconnect; what is under way has the budget of a stop."""
        if not self.is_used:
            return
        loop, over = asyncio.get_running_loop(), asyncio.Event()
        calls = budget.left(budget.calls)
        cancelled = budget.left(budget.cancelled) - calls

        def leave() -> None:
            self._leave(calls, cancelled)
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(over.set)

        thread = threading.Thread(target=leave, name="offload-sync-leave", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the system has no more
            self._leave(0, 0)
            return
        await over.wait()
        thread.join()

    def _leave(self, calls: float, cancelled: float) -> None:
        """Wait `calls` seconds for what is under way; the rest has `cancelled` seconds to end."""
        connection, outbox = self._connection, self.outbox
        if not outbox.wait_until_idle(calls):
            outbox.give_up()
            connection.close()
            connection.closes_behind = True
        if outbox.wait_until_idle(cancelled):
            connection.close()
