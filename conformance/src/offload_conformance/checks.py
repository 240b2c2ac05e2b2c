"""Pure functions of a history: they prove a rule, now and from the file alone.

A test states what must hold as named checks with parameters, which become
events of the history too. `broken` evaluates them all again, with nothing but
the history; `verify` does just that.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from offload_conformance.history import Event, named

Check = Callable[..., Iterator[str]]

CHECKS: dict[str, Check] = {}


def check(function: Check) -> Check:
    """Register a check: it yields a sentence for each thing that doesn't hold."""
    CHECKS[function.__name__] = function
    return function


def broken(events: list[Event]) -> list[str]:
    """What doesn't hold of all that this history claims, in sentences."""
    found: list[str] = []
    for event in named(events, "check"):
        what = dict(event.what)
        function = CHECKS.get(what.pop("check"))
        if function is None:
            found.append(f"unknown check in event {event.number}")
            continue
        found.extend(function(events[: event.number], **what))
    return found


def vacuous(events: list[Event]) -> list[str]:
    """Faults that were meant to strike and hit nothing: then nothing is proved."""
    meant = Counter(event.what["kind"] for event in named(events, "fault"))
    hit = Counter(event.what["kind"] for event in named(events, "fault_hit"))
    return [f"the fault {kind!r} hit nothing" for kind in meant if hit[kind] < meant[kind]]


# -- plain statements ----------------------------------------------------------


@check
def equal(_: list[Event], what: str, expected: Any, actual: Any) -> Iterator[str]:
    """Something was read, and is what it must be."""
    if expected != actual or type(expected) is not type(actual):
        yield f"{what}: expected {expected!r}, got {actual!r}"


@check
def contains(_: list[Event], what: str, part: str, actual: str) -> Iterator[str]:
    """A text was read, and has a part in it."""
    if part not in actual:
        yield f"{what}: expected {part!r} in {actual!r}"


@check
def lacks(_: list[Event], what: str, part: str, actual: str) -> Iterator[str]:
    """A text was read, and has no such part in it."""
    if part in actual:
        yield f"{what}: {part!r} must not be in it"


@check
def at_most(_: list[Event], what: str, limit: float, actual: float) -> Iterator[str]:
    """A number was measured, and isn't over its limit."""
    if not actual <= limit:
        yield f"{what}: {actual:g} is over the limit of {limit:g}"


@check
def at_least(_: list[Event], what: str, limit: float, actual: float) -> Iterator[str]:
    """A number was measured, and isn't under its limit."""
    if not actual >= limit:
        yield f"{what}: {actual:g} is under the limit of {limit:g}"


@check
def raised(events: list[Event], call: str, error: str) -> Iterator[str]:
    """The last call of this name was refused with this error, or one below it in the tree."""
    answered = named(events, "refused", "accepted", "returned")
    answers = [event for event in answered if event.what["call"] == call]
    if not answers:
        yield f"{call}: expected {error}, but it never answered"
    elif answers[-1].name != "refused":
        yield f"{call}: expected {error}, but nothing was raised"
    elif error not in answers[-1].what["errors"]:
        got = answers[-1].what
        yield f"{call}: expected {error}, got {got['errors'][0]}: {got['text']}"


# -- runs ----------------------------------------------------------------------


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
def most_at_once(events: list[Event], limit: int) -> Iterator[str]:
    """Never more than so many handlers ran at the same time."""
    running: set[tuple[str, int]] = set()
    for event in named(events, "started", "ended"):
        run = (event.what["id"], event.what["attempt"])
        if event.name == "started":
            running.add(run)
            if len(running) > limit:
                yield f"{len(running)} handlers ran at once, with a concurrency of {limit}"
                return
        else:
            running.discard(run)


@check
def wait_between(events: list[Event], tag: str, attempt: int, least_ms: float) -> Iterator[str]:
    """From the end of an attempt to the start of the next there was at least this wait."""
    runs = {e.what["attempt"]: e for e in runs_of(events, tag)}
    if attempt not in runs or attempt + 1 not in runs:
        yield f"attempts {attempt} and {attempt + 1} of {tag} didn't both run"
        return
    waited = runs[attempt + 1].what["wall_ms"] - runs[attempt].what["wall_ms"]
    if waited < least_ms:
        yield f"attempt {attempt + 1} of {tag} came after {waited:.1f} ms, before {least_ms:g} ms"


@check
def no_attempt_before(events: list[Event], tag: str, least_ms: float) -> Iterator[str]:
    """If there was another attempt by now, it came no sooner than this after the one before."""
    began = [e.what["wall_ms"] for e in runs_of(events, tag)]
    for before, after in itertools.pairwise(began):
        if after - before < least_ms:
            yield f"an attempt of {tag} came after {after - before:.1f} ms, before {least_ms:g} ms"


@check
def never_early(events: list[Event]) -> Iterator[str]:
    """No job began before it was due, by the clock of this host."""
    due: dict[str, float] = {}
    for event in events:
        if event.name == "accepted" and event.what.get("due_ms") is not None:
            due.update(dict.fromkeys(event.what["ids"], event.what["due_ms"]))
        elif event.name == "started" and event.what["id"] in due:
            early = due[event.what["id"]] - event.what["wall_ms"]
            if early > 0:
                yield f"job {event.what['id']} began {early:.2f} ms before it was due"


@check
def late_at_most(events: list[Event], limit_ms: float) -> Iterator[str]:
    """The median of the scheduled jobs was no later than this."""
    began = {e.what["id"]: e.what["wall_ms"] for e in reversed(runs_of(events))}
    late = sorted(
        began[job_id] - e.what["due_ms"]
        for e in named(events, "accepted")
        if e.what.get("due_ms") is not None
        for job_id in e.what["ids"]
        if job_id in began
    )
    if not late:
        yield "no scheduled job ran"
    elif late[len(late) // 2] > limit_ms:
        yield f"the median lateness is {late[len(late) // 2]:.1f} ms; {limit_ms:g} ms are claimed"


@check
def due_as_asked(events: list[Event], slack_ms: float | None = None) -> Iterator[str]:
    """No due time that a job tells is before the one asked for, nor after it by more than this.

    The time that the call took comes on top; without a slack, it may be any time later.
    """
    asked = {
        job_id: event
        for event in named(events, "accepted")
        if event.what.get("due_ms") is not None
        for job_id in event.what["ids"]
    }
    for run in runs_of(events):
        if run.what["id"] in asked and run.what["attempt"] == 1:
            call = asked[run.what["id"]]
            off = run.what["due_ms"] - call.what["due_ms"]
            took = call.wall_ms - call.what["asked_ms"]
            # What was due already may be told as due now.
            is_bounded = slack_ms is not None and call.what["due_ms"] > call.what["asked_ms"]
            if off < -0.01 or (is_bounded and off > took + (slack_ms or 0)):
                yield (
                    f"job {run.what['id']} ({run.what['tag']}) says it was due {off:+.2f} ms from "
                    f"when was asked for, in a call of {took:.2f} ms"
                )


@check
def began_within(events: list[Event], tag: str, limit_ms: float) -> Iterator[str]:
    """The median time from the call to the run, of the jobs with this tag, was no longer."""
    began = {e.what["id"]: e.what["wall_ms"] for e in reversed(runs_of(events, tag))}
    took = sorted(
        began[job_id] - e.what["asked_ms"]
        for e in named(events, "accepted")
        if e.what["tag"] == tag
        for job_id in e.what["ids"]
        if job_id in began
    )
    if not took:
        yield f"no job of {tag} ran"
    elif took[len(took) // 2] > limit_ms:
        yield f"{tag}: the median wait is {took[len(took) // 2]:.1f} ms, over {limit_ms:g} ms"


# -- together ------------------------------------------------------------------


@check
def ran_at_once(events: list[Event], count: int) -> Iterator[str]:
    """At some time, so many handlers were running."""
    running: set[tuple[str, int]] = set()
    most = 0
    for event in named(events, "started", "ended"):
        run = (event.what["id"], event.what["attempt"])
        (running.add if event.name == "started" else running.discard)(run)
        most = max(most, len(running))
    if most < count:
        yield f"only {most} handlers ever ran at once, not {count}"


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


# -- args ----------------------------------------------------------------------


@check
def arrived(events: list[Event]) -> Iterator[str]:
    """All args that were performed arrived, in each run equal and of the same types."""
    received: dict[str, list[str]] = {}
    for event in named(events, "received"):
        received.setdefault(event.what["id"], []).append(event.what["spelt"])
    for event in named(events, "performed"):
        sent = event.what["spelt"]
        if event.what["id"] not in received:
            yield f"these args never arrived: {sent[:100]}"
        for got in received.get(event.what["id"], []):
            if got != sent:
                yield _difference(sent, got)


def _difference(sent: str, got: str) -> str:
    pairs = enumerate(zip(sent, got, strict=False))
    at = next((n for n, (one, other) in pairs if one != other), min(len(sent), len(got)))
    part = slice(max(0, at - 20), at + 60)
    return f"sent \u2026{sent[part]}\u2026, arrived \u2026{got[part]}\u2026"


@check
def refusal_names(events: list[Event], call: str, part: str) -> Iterator[str]:
    """The last refusal of this call names what is wrong."""
    texts = [e.what["text"] for e in named(events, "refused") if e.what["call"] == call]
    if not texts or part not in texts[-1]:
        yield f"{call}: expected {part!r} in the error, got {texts[-1:]}"


@check
def lasted(events: list[Event], tag: str, least_s: float) -> Iterator[str]:
    """The first run of this tag took longer than this."""
    began = next((e for e in runs_of(events, tag)), None)
    ended = next((e for e in named(events, "ended") if e.what["tag"] == tag), None)
    if began is None or ended is None:
        yield f"no run of {tag} began and ended"
    elif ended.at - began.at < least_s:
        yield f"{tag} took {ended.at - began.at:.3f} s, not {least_s:g} s: too short to prove it"


@check
def recovered_within(events: list[Event], tag: str, limit_s: float) -> Iterator[str]:
    """Each job with this tag that a kill cut short began again within this time."""
    kill = next((e for e in named(events, "fault") if e.what["kind"] == "kill"), None)
    hit = next((e for e in named(events, "fault_hit") if e.what["kind"] == "kill"), None)
    if kill is None or hit is None:
        return  # it hit nothing: the verdict says so
    again = {e.what["id"]: e.at for e in reversed(runs_of(events, tag)) if e.number > kill.number}
    for job_id in sorted(set(hit.what["running"]) & set(accepted_ids(events, tag))):
        if job_id not in again:
            yield f"job {job_id} ({tag}) was cut short and never ran again"
        elif again[job_id] - kill.at > limit_s:
            waited = again[job_id] - kill.at
            yield f"job {job_id} ({tag}) ran again after {waited:.2f} s; {limit_s:g} s are claimed"


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


# -- stops ---------------------------------------------------------------------


@check
def all_ended_before(events: list[Event], call: str) -> Iterator[str]:
    """When this stop of a worker returned, every run that had begun there had ended."""
    stops = [event for event in named(events, "stopped") if event.what["call"] == call]
    if not stops:
        yield f"{call} never returned"
        return
    running: dict[tuple[str, int], None] = {}
    for event in named(events[: stops[0].number], "started", "ended"):
        if event.what["worker"] == stops[0].what["worker"]:
            run = (event.what["id"], event.what["attempt"])
            if event.name == "started":
                running[run] = None
            else:
                running.pop(run, None)
    yield from (f"job {job_id} was still running when {call} returned" for job_id, _ in running)


@check
def ended_as(events: list[Event], tag: str, expected: list[str]) -> Iterator[str]:
    """The runs of this tag ended like this, in this order: returned, or with an exception."""
    got = [event.what["how"] for event in named(events, "ended") if event.what["tag"] == tag]
    if got != expected:
        yield f"ends of {tag}: expected {expected}, got {got}"
