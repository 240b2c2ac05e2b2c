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


class SyncReach:
    """The plain calls of a driver that has them."""

    def __init__(self, life: Life, driver: Driver, note_claims: Callable[[], None]) -> None:
        self._has_way = isinstance(driver, SyncEnqueue)
        self._driver = cast("SyncEnqueue", driver)
        self._note_claims = note_claims
        self.outbox = SyncOutbox(self._enqueue, life.refuse_if_stopped)
        self._has_called = False
        self._is_noted = False
        self._closes_behind = False
        """Whether a call that outlasted a stop is to disconnect when it ends."""

    @property
    def is_open(self) -> bool:
        """Whether the calling thread can send by this way."""
        return self._has_way and not self.outbox.is_amid

    @property
    def is_used(self) -> bool:
        """Whether something is under way, or may be open."""
        return self._has_called or not self.outbox.is_idle

    def _enqueue(self, entries: Sequence[Entry]) -> None:
        self._has_called = True
        try:
            self._driver.enqueue_sync(entries)
            if not self._is_noted:
                self._is_noted = True
                self._note()
        finally:
            if self._closes_behind:
                self._closes_behind = False
                self._close()

    def _note(self) -> None:
        try:
            self._note_claims()
        except Exception as error:  # no reason to fail a call that has stored its entries
            write(engine_log.error, "the driver can't tell of its claims", error=error)

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
        """Wait so many seconds for what is under way, and then so many for the end of the rest."""
        if not self.outbox.wait_until_idle(calls):
            self.outbox.give_up()
            self._closes_behind = True
            self._close()
        if self.outbox.wait_until_idle(cancelled):
            self._closes_behind = False
            self._close()

    def _close(self) -> None:
        self._has_called = self._is_noted = False
        try:
            self._driver.close_sync()
        except Exception as error:
            tell_of_close(error)
