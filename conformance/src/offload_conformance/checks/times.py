"""When jobs ran, and how long it took."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from offload_conformance.checks.registry import check
from offload_conformance.checks.runs import accepted_ids, running_now, runs_of
from offload_conformance.history import Event, named


@check
def wait_between(events: list[Event], tag: str, attempt: int, least_ms: float) -> Iterator[str]:
    """From the end of an attempt to the start of the next there was at least this wait."""
    began = {e.what["attempt"]: e.what["wall_ms"] for e in runs_of(events, tag)}
    ended = {
        e.what["attempt"]: e.what["wall_ms"] for e in named(events, "ended") if e.what["tag"] == tag
    }
    if attempt not in ended or attempt + 1 not in began:
        yield f"attempts {attempt} and {attempt + 1} of {tag} didn't both run"
        return
    waited = began[attempt + 1] - ended[attempt]
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
def never_early(events: list[Event], slack_ms: float = 0.0) -> Iterator[str]:
    """No job began before it was due, or no more than this, by the clock of this host."""
    # All of them first: a job may have begun before its perform has returned.
    due = {
        job_id: event.what["due_ms"]
        for event in named(events, "accepted")
        if event.what.get("due_ms") is not None
        for job_id in event.what["ids"]
    }
    for run in runs_of(events):
        early = due.get(run.what["id"], 0) - run.what["wall_ms"]
        if early > slack_ms:
            yield f"job {run.what['id']} began {early:.2f} ms before it was due"


@check
def late_at_most(events: list[Event], limit_ms: float, share: float = 0.5) -> Iterator[str]:
    """This share of the scheduled jobs was no later than this.

    What is due by now and hasn't run is late by the time until now.
    """
    began = {e.what["id"]: e.what["wall_ms"] for e in reversed(runs_of(events))}
    last_ms = max((e.wall_ms for e in events), default=0.0)
    late = sorted(
        began.get(job_id, last_ms) - e.what["due_ms"]
        for e in named(events, "accepted")
        if e.what.get("due_ms") is not None
        for job_id in e.what["ids"]
        if job_id in began or e.what["due_ms"] < last_ms
    )
    if not late:
        yield "no scheduled job ran"
        return
    reached = late[min(int(len(late) * share), len(late) - 1)]
    if reached > limit_ms:
        yield f"{share:.0%} were up to {reached:.1f} ms late, over {limit_ms:g} ms"


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
def began_within(
    events: list[Event], tag: str, limit_ms: float, share: float = 0.5, slack_ms: float = 0.0
) -> Iterator[str]:
    """Each job with this tag ran, and from the call to the run this share took no longer.

    The slack is what a busy host may add.
    """
    began = {e.what["id"]: e.what["wall_ms"] for e in reversed(runs_of(events, tag))}
    asked = {
        job_id: e.what["asked_ms"]
        for e in named(events, "accepted")
        if e.what["tag"] == tag
        for job_id in e.what["ids"]
    }
    if not asked or not asked.keys() <= began.keys():
        yield f"{len(began)} of {len(asked)} jobs of {tag} ran"
        return
    took = sorted(began[job_id] - asked_ms for job_id, asked_ms in asked.items())
    reached = took[min(int(len(took) * share), len(took) - 1)]
    if reached > limit_ms + slack_ms:
        yield f"{tag}: {share:.0%} began within {reached:.1f} ms, over {limit_ms + slack_ms:g} ms"


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
    if kill is None:
        yield "nothing was killed"
        return
    running = running_now(events[: kill.number], kill.what["worker"])
    cut_short = set(running) & set(accepted_ids(events, tag))
    if not cut_short:
        yield f"nothing of {tag} was running when it was killed"
    again = {e.what["id"]: e.at for e in reversed(runs_of(events, tag)) if e.number > kill.number}
    for job_id in sorted(cut_short):
        if job_id not in again:
            yield f"job {job_id} ({tag}) was cut short and never ran again"
        elif again[job_id] - kill.at > limit_s:
            waited = again[job_id] - kill.at
            yield f"job {job_id} ({tag}) ran again after {waited:.2f} s; {limit_s:g} s are claimed"
