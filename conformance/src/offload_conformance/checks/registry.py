"""The checks by name, and what they find in a history."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

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
