"""What can't be so in any history, whatever the adapter does."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator

from offload_conformance.certificate import TestRecord
from offload_conformance.history import Event, named
from offload_conformance.verdicts import Verdict

MAX_CHECKS = 1_000
"""How many checks a test may have: each looks through its history."""
STEP_SECONDS = 60.0
"""How far the host's clock may be set forward or back while a test runs."""
ARRIVAL_SECONDS = 60.0
"""How long a report may be under way: its process may be frozen, or its host very busy."""
TICK_MS = 1.0
"""How far two readings of one clock may be out of order."""


def impossible(test: TestRecord) -> Iterator[str]:
    """In sentences; in time that grows with the history, and no faster."""
    history = test.history
    if [event.number for event in history] != list(range(len(history))):
        yield "its events aren't numbered in order"
    times = [time for event in history for time in (event.at, event.wall_ms)]
    if not all(map(math.isfinite, [*times, test.seconds])):
        yield "a time of its events is no time"
        return
    if history and history[0].at < 0:
        yield "its events come before it began"
    if any(after.at < before.at for before, after in itertools.pairwise(history)):
        yield "its events go back in time"
    if history and not -0.01 <= test.seconds - history[-1].at <= 0.01:
        yield f"it took {history[-1].at:.3f} s by its events, and {test.seconds:.3f} s by its words"
    if sum(event.name == "check" for event in history) > MAX_CHECKS:
        yield f"it has more than {MAX_CHECKS} checks"
    began = [event.wall_ms / 1000 - event.at for event in history]
    step = max(began) - min(began) if began else 0.0
    if step > STEP_SECONDS:
        yield "its two clocks disagree"
        return
    if test.verdict != Verdict.PASS:  # a broken adapter may do what is impossible
        return
    slack_ms = TICK_MS + step * 1000
    yield from _runs(history)
    yield from _reports(history, slack_ms)
    yield from _performs(history, slack_ms)
    yield from _deaths(history, slack_ms)


def _runs(history: list[Event]) -> Iterator[str]:
    """Each run ends after it began, where it began, and once."""
    under_way: Counter[tuple[str, str, str]] = Counter()
    for event in named(history, "started", "ended"):
        run = (str(event.what["id"]), str(event.what["attempt"]), str(event.what["worker"]))
        under_way[run] += 1 if event.name == "started" else -1
        if under_way[run] < 0:
            yield "a run ended that never began"
            return


def _reports(history: list[Event], slack_ms: float) -> Iterator[str]:
    """A report comes after what it reports, and not long after."""
    for event in named(history, "started", "ended"):
        late_ms = event.wall_ms - event.what["wall_ms"]
        if not -slack_ms <= late_ms <= ARRIVAL_SECONDS * 1000 + slack_ms:
            yield f"event {event.number} tells of what was {late_ms:.0f} ms before it"
            return


def _performs(history: list[Event], slack_ms: float) -> Iterator[str]:
    """A job runs after it was performed, and with the tag that it was given."""
    calls = {job_id: e for e in named(history, "accepted") for job_id in e.what["ids"]}
    for run in named(history, "started"):
        if (call := calls.get(run.what["id"])) is None:
            continue
        if run.what["tag"] != call.what["tag"]:
            yield f"job {run.what['id']} ran with another tag than it was given"
            return
        if run.what["wall_ms"] + slack_ms < call.what.get("asked_ms", -math.inf):
            yield f"job {run.what['id']} ran before it was performed"
            return


def _deaths(history: list[Event], slack_ms: float) -> Iterator[str]:
    """What was killed runs nothing any more, and what a fault hit was there."""
    killed, died_ms = None, dict[str, float]()
    unended: set[str] = set()
    for event in named(history, "accepted", "ended", "fault", "fault_hit", "started"):
        what = event.what
        if event.name == "accepted":
            unended.update(what["ids"])
        elif event.name == "ended":
            unended.discard(what["id"])
        elif event.name == "fault":
            killed = str(what["worker"]) if what["kind"] == "kill" and "worker" in what else killed
        elif event.name == "fault_hit":
            left = unended.intersection(what.get("left", ()))
            if not (what.get("running") or what.get("connections") or left):
                yield f"the fault of event {event.number} hit nothing"
            if what["kind"] == "kill" and killed is not None:
                died_ms[killed] = event.wall_ms
        elif what["wall_ms"] > died_ms.get(what["worker"], math.inf) + slack_ms:
            yield f"{what['worker']} began a job after it was killed"
            return
