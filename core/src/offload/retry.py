"""How long to wait before the next attempt, and how a handler decides for itself."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import timedelta
from typing import TypeAlias

Backoff: TypeAlias = Callable[[int], timedelta]
"""From the number of the attempt that failed (1, 2, …) to the wait before the next."""


def exponential(
    first: timedelta = timedelta(seconds=1),
    *,
    factor: float = 2.0,
    limit: timedelta = timedelta(hours=1),
    jitter: float = 0.1,
) -> Backoff:
    """`first`, then `factor` times as long each time, up to `limit`.

    Up to the share `jitter` is added at random, so that jobs which failed
    together don't all come back together. It is never less than the formula.
    """

    def backoff(attempt: int) -> timedelta:
        try:
            wait = min(limit, first * factor ** (attempt - 1))
        except OverflowError:
            wait = limit
        return wait * (1.0 + random.random() * jitter)

    return backoff


def constant(wait: timedelta) -> Backoff:
    """The same wait before every attempt."""
    return lambda _attempt: wait


class Retry(Exception):  # noqa: N818  (raised to decide, not to report an error)
    """Raise it in a handler: run this job again `after` a time, not the usual backoff.

    The attempt counts; after the last one the job is a dead letter (FAIL-9).
    """

    def __init__(self, after: timedelta | float, reason: str = "the handler asked for it") -> None:
        super().__init__(reason)
        self.after = after if isinstance(after, timedelta) else timedelta(seconds=after)


class Reject(Exception):  # noqa: N818
    """Raise it in a handler: this job can never succeed. A dead letter at once (FAIL-9)."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)


# They are shown, in errors and dead letters, by the name that users know.
Retry.__module__ = Reject.__module__ = "offload"
