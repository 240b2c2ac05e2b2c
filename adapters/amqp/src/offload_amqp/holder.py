"""Messages that are due in a moment, held until then."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable
from typing import Generic, TypeVar

from offload_amqp.messages import now_ms

T = TypeVar("T")

TOLERANCE_MS = 30
"""By so much the way here may have taken longer than was asked, without a clock being wrong.

What came late is held for less, if the wall clock says so. So a worker whose
clock is ahead is early by no more than this, and one whose clock is behind is
not late.
"""


class Holder(Generic[T]):
    """Gives things back when they are due."""

    def __init__(self, give: Callable[[T], None]) -> None:
        self._give = give
        self._held: list[tuple[float, int, T]] = []
        self._numbers = itertools.count()
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def hold(self, thing: T, hold_ms: int, due_ms: int) -> None:
        """Hold this for so long from now on, or a little less, if it is due sooner."""
        left = min(hold_ms, max(due_ms - now_ms(), hold_ms - TOLERANCE_MS))
        at = self._loop.time() + max(0, left) / 1000
        heapq.heappush(self._held, (at, next(self._numbers), thing))
        if self._held[0][0] == at:
            self._set_timer()

    def clear(self) -> list[T]:
        """Forget everything; return what was held."""
        held = [thing for _, _, thing in self._held]
        self._held.clear()
        self._set_timer()
        return held

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._held:
            self._timer = self._loop.call_at(self._held[0][0], self._ring)

    def _ring(self) -> None:
        while self._held and self._held[0][0] <= self._loop.time():
            self._give(heapq.heappop(self._held)[2])
        self._set_timer()
