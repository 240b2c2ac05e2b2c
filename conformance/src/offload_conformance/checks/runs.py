"""Which jobs ran: how often, where, in what order and how many at once."""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from typing import Any

from offload_conformance.checks.registry import check
from offload_conformance.history import Event, named


def runs_of(events: list[Event], tag: str | None = None) -> list[Event]:
    """The runs that began, all or those of the jobs with a tag."""
    return [e for e in named(events, "started") if tag is None or e.what["tag"] == tag]


def accepted_ids(events: list[Event], tag: str | None = None) -> list[str]:
    """The ids that the adapter gave, all or those of the jobs with a tag."""
    return [
        job_id
        for e in named(events, "accepted")
        if tag is None or e.what["tag"] == tag
        for job_id in e.what["ids"]
    ]


@check
def each_once(events: list[Event], tag: str | None = None) -> Iterator[str]:
    """Every accepted job ran exactly once, and nothing else ran."""
    runs = Counter(e.what["id"] for e in runs_of(events, tag))
    ids = accepted_ids(events, tag)
    if len(set(ids)) != len(ids):
        yield f"an id was given twice among {len(ids)} jobs"
    for job_id in ids:
        if runs[job_id] != 1:
            yield f"job {job_id} ran {runs[job_id]} times, not once"
    for job_id in runs.keys() - set(ids):
        yield f"a job ran that was never accepted: {job_id}"


@check
def each_accepted_ran(events: list[Event], tag: str | None = None) -> Iterator[str]:
    """Every accepted job ran at least once; so may have what was refused as `maybe_stored`."""
    runs = {e.what["id"] for e in runs_of(events, tag)}
    ids = accepted_ids(events, tag)
    yield from (f"job {job_id} was accepted and never ran" for job_id in ids if job_id not in runs)


@check
def each_ran(events: list[Event], tag: str | None = None) -> Iterator[str]:
    """Every accepted job ran at least once, and nothing else ran."""
    runs = {e.what["id"] for e in runs_of(events, tag)}
    ids = set(accepted_ids(events, tag))
    yield from (f"job {job_id} was accepted and never ran" for job_id in sorted(ids - runs))
    yield from (f"a job ran that was never accepted: {i}" for i in sorted(runs - ids))


@check
def never_ran(events: list[Event], tag: str) -> Iterator[str]:
    """No job with this tag ran."""
    for run in runs_of(events, tag):
        yield f"job {run.what['id']} ({tag}) ran, and must not have"


@check
def taken_over(events: list[Event], laid: int, requeued: list[str]) -> Iterator[str]:
    """What was laid under this number ran, each job once, as its next attempt, equal, in time.

    What isn't due yet didn't; of the dead letters only those that were requeued, as attempt 1.
    """
    what = next((e.what for e in named(events, "laid") if e.what["number"] == laid), None)
    if what is None or not what["jobs"]:
        yield f"nothing was laid under number {laid}"
        return
    runs: dict[str, list[Mapping[str, Any]]] = {}
    for run in runs_of(events):
        if run.what["worker"] in what["workers"]:
            runs.setdefault(run.what["id"], []).append(run.what)
    for job in what["jobs"]:
        expected = [] if job["due_in_ms"] > what["within_ms"] else [job["attempt"]]
        of_job = runs.get(job["id"], [])
        if (got := [run["attempt"] for run in of_job]) != expected:
            yield f"{job['tag']}: expected the runs {expected}, got {got}"
        yield from (fault for run in of_job for fault in _unlike_what_was_laid(run, job, what))
    for letter in what["dead"]:
        expected = [1] if letter["id"] in requeued else []
        if (got := [run["attempt"] for run in runs.get(letter["id"], [])]) != expected:
            yield f"the dead letter {letter['tag']}: expected the runs {expected}, got {got}"


def _unlike_what_was_laid(
    run: Mapping[str, Any], job: Mapping[str, Any], what: Mapping[str, Any]
) -> Iterator[str]:
    early_ms = what["laid_ms"] + job["due_in_ms"] - run["wall_ms"]
    if job["due_in_ms"] and early_ms > what["slack_ms"]:
        yield f"{job['tag']} ran {early_ms:.0f} ms before it was due"
    expected = [job["tag"], job["queue"], job["args"].get("payload")]
    if (got := [run["tag"], run["queue"], run["args"]]) != expected:
        yield f"{job['tag']}: expected tag, queue and payload {expected}, got {got}"


@check
def stored_as_told(events: list[Event]) -> Iterator[str]:
    """No job ran of a call that raised and said that nothing was stored."""
    for told in named(events, "told"):
        if not told.what["maybe_stored"] and runs_of(events, told.what["tag"]):
            yield f"{told.what['tag']} raised, and not as maybe stored; and yet its job ran"


@check
def attempts(events: list[Event], tag: str, expected: list[int]) -> Iterator[str]:
    """The runs of the one job with this tag had these attempts, in this order."""
    got = [e.what["attempt"] for e in runs_of(events, tag)]
    if got != expected:
        yield f"attempts of {tag}: expected {expected}, got {got}"


@check
def in_order(events: list[Event], tags: list[str]) -> Iterator[str]:
    """The first runs of these tags began in this order."""
    got = list(dict.fromkeys(e.what["tag"] for e in runs_of(events) if e.what["tag"] in tags))
    if got != tags:
        yield f"expected the order {tags}, got {got}"


@check
def in_order_of_performs(events: list[Event]) -> Iterator[str]:
    """The first runs of all accepted jobs began in the order in which these were performed."""
    began = list(dict.fromkeys(run.what["id"] for run in runs_of(events)))
    expected = accepted_ids(events)
    if missing := set(expected) - set(began):
        yield f"{len(missing)} of {len(expected)} jobs never ran"
        return
    places = {job_id: place for place, job_id in enumerate(expected)}
    got = [places[job_id] for job_id in began if job_id in places]
    for place, (number, following) in enumerate(itertools.pairwise(got)):
        if following < number:
            yield (
                f"job number {following} began after number {number}, "
                f"as {place + 2} of {len(expected)}"
            )
            return


@check
def again_before(events: list[Event], tag: str, others: str) -> Iterator[str]:
    """All jobs of a tag began twice, and none with the other tag before the last of these runs."""
    runs = runs_of(events, tag)
    if len(runs) != 2 * len(accepted_ids(events, tag)):
        yield f"{len(runs)} runs of {tag} began, not two for each of its jobs"
        return
    early = [e for e in runs_of(events, others) if runs and e.number < runs[-1].number]
    if early:
        yield f"{len(early)} jobs of {others} began before {tag} began again"


def running(
    events: list[Event], worker: str | None = None
) -> Iterator[Mapping[tuple[str, int], None]]:
    """The runs, by job and attempt, after each start and end, of all workers or of one.

    One mapping, which changes: a copy of each state would take the square of the time.
    """
    runs: dict[tuple[str, int], None] = {}
    for event in named(events, "started", "ended"):
        if worker is None or event.what["worker"] == worker:
            run = (event.what["id"], event.what["attempt"])
            if event.name == "started":
                runs[run] = None
            else:
                runs.pop(run, None)
            yield runs


def running_now(events: list[Event], worker: str) -> list[str]:
    """The ids of the jobs that a worker was running at the end of this history."""
    last = deque(running(events, worker), maxlen=1)
    return [job_id for state in last for job_id, _ in state]


def unended_ids(events: list[Event]) -> list[str]:
    """The ids of the accepted jobs of which no run has ended in this history."""
    ended = {event.what["id"] for event in named(events, "ended")}
    return [job_id for job_id in accepted_ids(events) if job_id not in ended]


def most_running(events: list[Event]) -> int:
    """How many handlers ran at once, at most."""
    return max(map(len, running(events)), default=0)


@check
def most_at_once(events: list[Event], limit: int) -> Iterator[str]:
    """Never more than so many handlers ran at the same time."""
    if (most := most_running(events)) > limit:
        yield f"{most} handlers ran at once, with a concurrency of {limit}"


@check
def ran_at_once(events: list[Event], count: int) -> Iterator[str]:
    """At some time, so many handlers were running."""
    if (most := most_running(events)) < count:
        yield f"only {most} handlers ever ran at once, not {count}"


@check
def all_ended_before(events: list[Event], call: str) -> Iterator[str]:
    """When this stop of a worker returned, every run that had begun there had ended."""
    stops = [event for event in named(events, "stopped") if event.what["call"] == call]
    if not stops:
        yield f"{call} never returned"
        return
    left = running_now(events[: stops[0].number], stops[0].what["worker"])
    yield from (f"job {job_id} was still running when {call} returned" for job_id in left)


@check
def soon_among_others(events: list[Event], tag: str, limit: int) -> Iterator[str]:
    """From its acceptance, no more than so many runs of other jobs began before this one."""
    overtaken_by = None
    for event in named(events, "accepted", "started"):
        if event.name == "accepted":
            overtaken_by = 0 if event.what["tag"] == tag else overtaken_by
        elif event.what["tag"] == tag:
            break
        elif overtaken_by is not None:
            overtaken_by += 1
    else:
        yield f"no job of {tag} ran"
        return
    if overtaken_by is not None and overtaken_by > limit:
        yield f"{overtaken_by} other runs began before {tag}, and {limit} would be many"


@check
def ran_on(events: list[Event], tag: str, worker: str, least: int) -> Iterator[str]:
    """This worker ran at least so many jobs of this tag."""
    count = sum(e.what["worker"] == worker for e in runs_of(events, tag))
    if count < least:
        yield f"{worker} ran {count} jobs of {tag}, not {least}"


@check
def tallied_once(events: list[Event], tag: str) -> Iterator[str]:
    """Every accepted job of this tag stands once in the tallies of all processes."""
    runs = Counter(job_id for e in named(events, "tallied") for job_id in e.what["ids"])
    ids = accepted_ids(events, tag)
    wrong = [f"job {job_id} ran {runs[job_id]} times, not once" for job_id in ids]
    wrong = [text for text, job_id in zip(wrong, ids, strict=True) if runs[job_id] != 1]
    yield from wrong[:5]
    if len(wrong) > 5:
        yield f"and so did {len(wrong) - 5} others of {len(ids)}"
    if strangers := runs.keys() - set(ids):
        yield f"{len(strangers)} jobs ran that were never accepted"


@check
def dead_had_its_runs(
    events: list[Event], max_attempts: int, tag: str | None = None
) -> Iterator[str]:
    """Each job that is dead had all its runs before it, one after the other, and tells so.

    One that was rejected ends with the run that rejected it.
    """
    letters = [e for e in named(events, "dead_letter") if tag in (None, e.what["tag"])]
    if not letters:
        yield "there is no dead letter to look at"
    runs: dict[str, list[int]] = {}
    for run in runs_of(events):
        runs.setdefault(run.what["id"], []).append(run.what["attempt"])
    how = {e.what["id"]: e.what["how"] for e in named(events, "ended")}
    for letter in letters:
        job_id, got = letter.what["id"], runs.get(letter.what["id"], [])
        most = len(got) if how.get(job_id) == "Reject" else max_attempts
        if not got or got != list(range(1, most + 1)) or most > max_attempts:
            yield f"job {job_id} is dead after the attempts {got}, of {max_attempts}"
        if letter.what["attempts"] != len(got):
            told = letter.what["attempts"]
            yield f"the dead letter {job_id} tells of {told} attempts, and {len(got)} are on record"


@check
def ended_as(events: list[Event], tag: str, expected: list[str]) -> Iterator[str]:
    """The runs of this tag ended like this, in this order: returned, or with an exception."""
    got = [event.what["how"] for event in named(events, "ended") if event.what["tag"] == tag]
    if got != expected:
        yield f"ends of {tag}: expected {expected}, got {got}"
