"""Leases are extended from a thread of their own, which no handler can block."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Collection

from offload.driver import Delivery, Leases
from offload.engine.logs import engine_log, write
from offload.engine.outage import Outage

WHAT = "leases can't be extended"
GAP = "the length of a lease can't be read, so that leases are extended every second"
JOIN_SECONDS = 1.0
"""How long an extension that is under way holds up who lets go of the leases."""
LONGEST_REST_SECONDS = 60.0
"""How long a loop may stand still between two runs, before its worker's leases end."""
AFTER_A_FAILURE = 4
"""By how much sooner the next extension comes: much of the lease may have gone in waiting."""
SHORTEST_GAP, LONGEST_GAP = 0.01, 3600.0
"""Seconds between extensions, whatever the driver says of its lease."""


class LeaseKeeper:
    """Extends what `held` returns every third of the lease, and tells `lost` what is gone."""

    def __init__(
        self,
        leases: Leases,
        held: Callable[[], Collection[Delivery]],
        lost: Callable[[Collection[Delivery]], None],
        outage: Outage,
    ) -> None:
        """Both callbacks are called from the keeper's thread."""
        self._leases = leases
        self._held = held
        self._lost = lost
        self._outage = outage
        self._outage_of_gaps = Outage()
        """Told by itself: an extension that works doesn't end it."""
        self._stopping = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._thread = threading.Thread(target=self._keep, name="offload-leases", daemon=True)
        self._thread.start()

    async def stop(self, deadline: float) -> None:
        """End the thread, after an extension that is under way.

        One that takes until the deadline, a time of the loop, is left to end by itself.
        """
        self._stopping.set()
        try:
            async with asyncio.timeout_at(deadline):
                await self._ended.wait()
        except TimeoutError:
            write(engine_log.warning, "leases are still being extended: the backend doesn't answer")
        else:
            self._thread.join()

    def abandon(self) -> None:
        """End the thread, after the loop it was made on was closed.

        One that waits for a backend that doesn't answer is left to end by itself.
        """
        self._stopping.set()
        self._thread.join(JOIN_SECONDS)

    def _keep(self) -> None:
        try:
            self._extend_until_stopped()
        finally:
            with contextlib.suppress(RuntimeError):  # the loop was closed without a stop
                self._loop.call_soon_threadsafe(self._ended.set)

    def _extend_until_stopped(self) -> None:
        ran_at = time.monotonic()
        failed = False
        while not self._stopping.wait(self._gap() / (AFTER_A_FAILURE if failed else 1)):
            if self._loop.is_running():
                ran_at = time.monotonic()
            elif time.monotonic() - ran_at > LONGEST_REST_SECONDS:
                continue  # nobody runs that loop any more: others may have the jobs
            try:
                lost = self._leases.extend(self._held())
                if lost:
                    self._lost(lost)
                self._outage.works(WHAT)
                failed = False
            except BaseException as error:  # the next turns come before the lease ends
                self._outage.fails(WHAT, error)
                failed = True

    def _gap(self) -> float:
        """Seconds between extensions: a third of the lease, within reason."""
        try:
            gap = min(max(self._leases.lease.total_seconds() / 3, SHORTEST_GAP), LONGEST_GAP)
        except BaseException as error:  # no thread may end because of what a driver says
            self._outage_of_gaps.fails(GAP, error)
            return 1.0
        self._outage_of_gaps.works(GAP)
        return gap
