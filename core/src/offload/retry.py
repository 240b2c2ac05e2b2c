"""How long to wait before the next attempt, and how a handler decides for itself."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from datetime import timedelta
from typing import TypeAlias

Backoff: TypeAlias = Callable[[int], timedelta]
"""From the number of the attempt that failed (1, 2, …) to the wait before the next."""


def exponential(
    first: timedelta | float = timedelta(seconds=1),
    *,
    factor: float = 2.0,
    limit: timedelta | float = timedelta(hours=1),
    jitter: float = 0.1,
) -> Backoff:
    """`first`, then `factor` times as long each time, up to `limit`; timedeltas, or seconds.

    Up to the share `jitter` is added at random, so that jobs which failed
    together don't all come back together. It is never less than the formula.

    Raises:
        ValueError, TypeError: a negative wait, or what is no number.
    """
    shortest, longest = _wait("first", first), _wait("limit", limit)
    for name, number in (("factor", factor), ("jitter", jitter)):
        _check_number(name, number)

    def backoff(attempt: int) -> timedelta:
        try:
            wait = min(longest, shortest * factor ** (attempt - 1))
        except OverflowError:
            wait = longest
        return wait * (1.0 + random.random() * jitter)

    return backoff


def constant(wait: timedelta | float) -> Backoff:
    """The same wait before every attempt: a timedelta, or seconds.

    Raises:
        ValueError, TypeError: a negative wait, or what is no number.
    """
    always = _wait("wait", wait)
    return lambda _attempt: always


def _wait(name: str, wait: timedelta | float) -> timedelta:
    if not isinstance(wait, timedelta):
        _check_number(name, wait)
        try:
            wait = timedelta(seconds=wait)
        except OverflowError:
            raise ValueError(f"{name}: {wait!r} seconds are beyond every calendar") from None
    if wait < timedelta(0):
        raise ValueError(f"{name}: must not be negative, as {wait} is")
    return wait


def _check_number(name: str, number: float) -> None:
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise TypeError(f"{name}: must be a number (or, for a time, a timedelta), not {number!r}")
    if not 0 <= number < math.inf:
        raise ValueError(f"{name}: must be finite and not negative, as {number!r} is")


class Retry(Exception):  # noqa: N818  (raised to decide, not to report an error)
    """Raise it in a handler: run this job again `after` a time (a timedelta, or seconds).

    Without a time, after the usual backoff; at most after the backend's
    `max_delay`. The attempt counts; after the last one the job is a dead letter
    (FAIL-9).
    """

    def __init__(
        self, after: timedelta | float | None = None, reason: str = "the handler asked for it"
    ) -> None:
        super().__init__(reason)
        self.after = after if after is None else _wait("after", after)


class Reject(Exception):  # noqa: N818
    """Raise it in a handler: this job can never succeed. A dead letter at once (FAIL-9)."""

    def __init__(self, reason: str = "the handler rejected it") -> None:
        super().__init__(reason)


# They are shown, in errors and dead letters, by the name that users know.
Retry.__module__ = Reject.__module__ = "offload"
