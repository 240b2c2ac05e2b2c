"""What happened in a soak, and what it proves. Pure: times are microseconds of one clock."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import msgspec


@dataclass(slots=True)
class Run:
    """One run of a job."""

    worker: str
    began: int
    ended: int | None = None


@dataclass(slots=True)
class Ledger:
    """All that a soak has written down."""

    accepted: dict[str, int] = field(default_factory=dict)
    """When each accepted job was due, at the earliest."""
    unknown: int = 0
    """Jobs whose perform raised, and that may have been stored."""
    refused: int = 0
    """Jobs whose perform raised, and that were not."""
    runs: defaultdict[str, list[Run]] = field(default_factory=lambda: defaultdict(list))
    done: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    """Those that failed on purpose, and must become dead letters."""
    dead: set[str] = field(default_factory=set)
    worker_kills: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Before, and after, the kill of each worker."""
    server_kills: list[tuple[int, int]] = field(default_factory=list)
    """When the backend was killed, and when it was back."""

    def read(self, worker: str, lines: Iterable[str]) -> None:
        """Take over what a worker wrote. A line that a kill cut short is left out."""
        for line in lines:
            mark, job_id, _, moment = line.split()
            if mark == "started":
                self.runs[job_id].append(Run(worker, int(moment)))
                continue
            run = next(r for r in reversed(self.runs[job_id]) if r.worker == worker)
            run.ended = int(moment)
            (self.done if mark == "done" else self.failed).add(job_id)


class Outcome(msgspec.Struct, frozen=True):
    """The numbers of a soak."""

    accepted: int
    done: int
    dead: int
    lost: Sequence[str]
    """Accepted, and neither done nor dead."""
    early: Sequence[str]
    """Begun before they were due."""
    unheard_of: int
    """Jobs that ran, and were never accepted; no more than those of unknown outcome."""
    unknown: int
    refused: int
    runs: int
    repeated: int
    """Runs beyond the first of their job."""
    unexplained: Sequence[str]
    """Jobs that ran again though neither their worker nor the backend was killed meanwhile."""
    worker_kills: int
    server_kills: int

    @property
    def is_right(self) -> bool:
        """Whether all that was promised was kept."""
        amiss = self.lost or self.early or self.unexplained
        return not amiss and self.unheard_of <= self.unknown


def outcome_of(ledger: Ledger) -> Outcome:
    """Count it all."""
    runs = {job_id: sorted(each, key=lambda run: run.began) for job_id, each in ledger.runs.items()}
    due = ledger.accepted
    return Outcome(
        accepted=len(due),
        done=len(ledger.done & due.keys()),
        dead=len(ledger.dead & due.keys()),
        lost=sorted(due.keys() - ledger.done - ledger.dead),
        early=[job_id for job_id, each in runs.items() if each[0].began < due.get(job_id, 0)],
        unheard_of=len(runs.keys() - due.keys()),
        unknown=ledger.unknown,
        refused=ledger.refused,
        runs=sum(map(len, runs.values())),
        repeated=sum(len(each) - 1 for each in runs.values()),
        unexplained=_unexplained(runs, ledger),
        worker_kills=len(ledger.worker_kills),
        server_kills=len(ledger.server_kills),
    )


def _unexplained(runs: Mapping[str, Sequence[Run]], ledger: Ledger) -> list[str]:
    return [
        job_id
        for job_id, each in runs.items()
        for run, again in pairwise(each)
        if not _was_struck(run, again, ledger)
    ]


def _was_struck(run: Run, again: Run, ledger: Ledger) -> bool:
    """Whether the worker, or the backend, was killed between the beginnings of two runs."""
    kills = [*ledger.server_kills]
    if run.worker in ledger.worker_kills:
        kills.append(ledger.worker_kills[run.worker])
    return any(begin <= again.began and run.began <= end for begin, end in kills)
