"""An outage in the log: once when it begins, then seldom, and when it is over."""

from __future__ import annotations

import threading
from time import monotonic

from offload.engine.logs import engine_log, write
from offload.errors import BackendError

FIRST_REMINDER_SECONDS = 10.0
"""A reminder comes after this time; each later one after three times as long, up to the next."""
LONGEST_REMINDER_SECONDS = 600.0


class Outage:
    """What a worker's parts find out about its backend, from whatever thread they work in."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failing: set[str] = set()
        self._since = 0.0
        self._next_reminder = 0.0
        self._gap = 0.0

    def fails(self, what: str, error: BaseException) -> None:
        """A part of the worker failed: `what` can't be done, because of `error`."""
        now = monotonic()
        with self._lock:
            begins = not self._failing
            self._failing.add(what)
            if begins:
                self._since, self._gap = now, FIRST_REMINDER_SECONDS
            elif now < self._next_reminder:
                return
            self._next_reminder = now + self._gap
            self._gap = min(3 * self._gap, LONGEST_REMINDER_SECONDS)
        if not isinstance(error, BackendError):
            write(engine_log.error, "the driver failed: %s", what, error=error)
        elif begins:
            write(engine_log.warning, "%s: %s", what, error)
        else:
            write(engine_log.warning, "%s for %.0f s now: %s", what, now - self._since, error)

    def works(self, what: str) -> None:
        """A part of the worker succeeded. Cheap as long as nothing fails."""
        if not self._failing:
            return
        with self._lock:
            was_failing = bool(self._failing)
            self._failing.discard(what)
            if self._failing or not was_failing:
                return
        lasted = monotonic() - self._since
        write(engine_log.warning, "the backend is available again after %.0f s", lasted)
