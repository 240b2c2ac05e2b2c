"""The sums of a ledger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from offload.cli.demo.ledger import Kind, Ledger, Outcome


@dataclass(frozen=True, slots=True)
class Totals:
    """What is known about the items of a plan."""

    files: int
    """Planned."""
    read: int
    gone: int
    size: int
    words: int
    texts: int
    rechecks: int
    """Planned."""
    rechecked: int
    changed: int
    """Files that were found to differ when they were read again."""
    lateness: Sequence[float]
    """Of the scheduled jobs that have begun, in seconds, from the least to the most."""
    flaky_attempt: int | None
    """The attempt at which the flaky job succeeded."""
    dead: Sequence[str]
    """The errors of the jobs that died."""

    @classmethod
    def of(cls, ledger: Ledger) -> Self:
        """Sum up a ledger."""
        by_file = (
            "SELECT count(*), count(outcome = :done OR NULL), count(outcome = :gone OR NULL), "
            "coalesce(sum(size), 0), coalesce(sum(words), 0), count(words) "
            "FROM item WHERE kind = :kind"
        )
