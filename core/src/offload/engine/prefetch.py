"""How many jobs a worker leases before it has a slot for them."""

from __future__ import annotations

import time

PREFETCH_SECONDS = 0.02
"""A worker leases, beyond its free slots, only what it would finish in this time."""
MEASURED_SECONDS = 0.002
"""The shortest time over which that is measured."""
MAX_PREFETCH = 500


class Prefetch:
    """How many jobs to lease beyond the slots, from how fast jobs have ended of late."""

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._ended_jobs = 0
        self._size = 0

    def update(self, ended_jobs: int) -> int:
        """The size to use now that so many jobs have ended."""
        now = time.monotonic()
        elapsed = now - self._since
        if elapsed >= MEASURED_SECONDS:
            rate = (ended_jobs - self._ended_jobs) / elapsed
            self._size = min(MAX_PREFETCH, int(rate * PREFETCH_SECONDS))
            self._since, self._ended_jobs = now, ended_jobs
        return self._size
