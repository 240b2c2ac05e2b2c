"""The slots of a worker: each is one handler that runs."""

from __future__ import annotations

from collections.abc import Callable


def _nobody() -> None:
    """Who hears of a change while the worker is stopped."""


class Slots:
    """Those of all starts on one event loop.

    A handler that outlives a stop, in a thread or deaf to its cancellation, keeps its slot in
    what is started next (CONC-1).
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.busy = 0
        self.on_change: Callable[[], None] = _nobody
        """Called when a run has ended, and when a slot has fallen free."""

    def free(self) -> None:
        """Free one whose handler has ended."""
        self.busy -= 1
        self.on_change()
