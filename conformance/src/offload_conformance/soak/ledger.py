"""What happened in a soak, and what it proves. Pure: times are microseconds of one clock."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

RUNS = 4
"""How many runs a job has that fails each time."""


@dataclass(slots=True)
class Run:
    """One run of a job."""

    worker: str
    began: int
    ended: int | None = None
    failed: bool = False
    """It ended with an error, so that the job runs again."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A job that the backend has accepted."""

    performed: int
    """At the earliest."""
    due: int


@dataclass(slots=True)
class Ledger:
    """All that a soak has written down."""

    accepted: dict[str, Accepted] = field(default_factory=dict)
    unknown: int = 0
    """Jobs whose perform raised, and that may have been stored."""
    refused: int = 0
    """Jobs whose perform raised, and that were not."""
    runs: defaultdict[str, list[Run]] = field(default_factory=lambda: defaultdict(list))
    done: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    """Those that failed on purpose, and must become dead letters;"""
    rejected: set[str] = field(default_factory=set)
    """of these, the ones that did so in their first run."""
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
            run.failed = mark == "failed"
            (self.done if mark == "done" else self.failed).add(job_id)
            if mark == "rejected":
                self.rejected.add(job_id)


class Outcome(msgspec.Struct, frozen=True):
    """The numbers of a soak."""

    accepted: int
    done: int
    dead: int
    lost: Sequence[str]
    """Accepted, and neither done nor dead."""
    early: Sequence[str]
    """Begun before they were due."""
    cut_short: int
    """Dead letters whose job had fewer runs than it may have, since kills were charged to it."""
    unheard_of: int
    """Jobs that ran, and were never accepted; no more than those of unknown outcome."""
    unknown: int
    refused: int
    runs: int
    repeated: int
    """Runs beyond the first of their job."""
    explained: Mapping[str, int]
    """How many of them are explained by what."""
    unexplained: Sequence[str]
    """Jobs that ran again though no kill explains it."""
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
    accepted = ledger.accepted
    begun = {job_id: each[0].began for job_id, each in runs.items()}
    reasons = [
        (job_id, _reason(accepted.get(job_id), each[:number], again, ledger))
        for job_id, each in runs.items()
        for number, again in enumerate(each[1:], 1)
    ]
    return Outcome(
        accepted=len(accepted),
        done=len(ledger.done & accepted.keys()),
        dead=len(ledger.dead & accepted.keys()),
        lost=sorted(accepted.keys() - ledger.done - ledger.dead),
        early=[each for each in begun if each in accepted and begun[each] < accepted[each].due],
        cut_short=sum(len(runs.get(each, ())) < RUNS for each in ledger.dead - ledger.rejected),
        unheard_of=len(runs.keys() - accepted.keys()),
        unknown=ledger.unknown,
        refused=ledger.refused,
        runs=sum(map(len, runs.values())),
        repeated=len(reasons),
        explained=Counter(reason for _, reason in reasons if reason),
        unexplained=[job_id for job_id, reason in reasons if not reason],
        worker_kills=len(ledger.worker_kills),
        server_kills=len(ledger.server_kills),
    )


def _reason(job: Accepted | None, runs_before: Sequence[Run], again: Run, ledger: Ledger) -> str:
    """Which kill explains that a job ran again; nothing, if none does."""
    run = runs_before[-1]
    if run.failed:
        return "its failure"
    own = ledger.worker_kills.get(run.worker)
    if own is not None and _falls(own, run.began, again.began):
        return "the death of its worker"
    if any(_falls(kill, run.began, again.began) for kill in ledger.server_kills):
        return "the death of the backend"
    # Some backends store a job again before they remove its old copy: a scheduled job at the latest
    # when it is due, a failed one for its retry. A process that dies in between leaves both copies.
    struck = [
        _falls(kill, each.ended, again.began)
        for each in runs_before
        if each.failed and each.ended is not None
        if (kill := ledger.worker_kills.get(each.worker)) is not None
    ]
    if job is not None and job.due > job.performed:
        struck += [_falls(kill, job.performed, again.began) for kill in ledger.server_kills]
        struck += [_falls(kill, job.due, again.began) for kill in ledger.worker_kills.values()]
    return "a death while it changed hands" if any(struck) else ""


def _falls(kill: tuple[int, int], since: int, until: int) -> bool:
    """Whether a kill may have fallen between two moments."""
    before, after = kill
    return before <= until and since <= after
