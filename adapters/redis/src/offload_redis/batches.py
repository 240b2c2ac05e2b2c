"""What is sent to a server goes in batches: one script holds it up for only so long."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")

MAX_JOBS = 100
"""The most jobs that one script touches."""


def batches(items: Sequence[T], size: int = MAX_JOBS) -> Iterator[Sequence[T]]:
    """The items, so many at a time."""
    for begin in range(0, len(items), size):
        yield items[begin : begin + size]
