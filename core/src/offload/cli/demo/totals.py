"""The sums of a ledger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from offload.cli.demo.ledger import Kind, Ledger, Outcome

_FILES = """
SELECT count(*), count(outcome = ? OR NULL), count(outcome = ? OR NULL),
       coalesce(sum(size), 0), coalesce(sum(words), 0), count(words)
FROM item WHERE kind = ?
"""
_CHANGED = """
SELECT count(*) FROM item AS later JOIN item AS first USING (path)
WHERE later.kind = ? AND first.kind = ? AND later.digest != first.digest
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """What is known about the items of a plan."""

    files: int
    """Planned; of these so many were `read` and so many `gone` when their jobs ran."""
    read: int
    gone: int
    size: int
    words: int
    texts: int
    """Files that have words."""
    rechecks: int
    """Planned."""
    changed: int
    """Files that differed when they were read again."""
    lateness: Sequence[float]
    """Of the scheduled jobs that have run, in seconds, the least first."""
    flaky_attempt: int | None
    """The attempt at which the flaky job succeeded."""
    dead: Sequence[str]
    """The errors of the jobs that died."""

    @classmethod
    def of(cls, ledger: Ledger) -> Self:
        """Sum up a ledger."""
        [(files, read, gone, size, words, texts)] = ledger.select(
            _FILES, Outcome.DONE, Outcome.GONE, Kind.FILE
        )
        [(rechecks,)] = ledger.select("SELECT count(*) FROM item WHERE kind = ?", Kind.RECHECK)
        [(changed,)] = ledger.select(_CHANGED, Kind.RECHECK, Kind.FILE)
        lateness = ledger.select("SELECT lateness FROM item WHERE lateness >= 0 ORDER BY lateness")
        flaky = ledger.select(
            "SELECT attempt FROM item WHERE kind = ? AND outcome = ?", Kind.FLAKY, Outcome.DONE
        )
        dead = ledger.select("SELECT note FROM item WHERE outcome = ?", Outcome.DEAD)
        return cls(
            files=files,
            read=read,
            gone=gone,
            size=size,
            words=words,
            texts=texts,
            rechecks=rechecks,
            changed=changed,
            lateness=[seconds for (seconds,) in lateness],
            flaky_attempt=flaky[0][0] if flaky else None,
            dead=[note for (note,) in dead],
        )
