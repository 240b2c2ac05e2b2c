"""From histories to verdicts: pure, so that whoever has the file can draw them again."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from offload_conformance.checks import broken, vacuous
from offload_conformance.history import Event, named


class Verdict(StrEnum):
    """What is known of a rule, the worst first."""

    FAIL = "fail"
    UNKNOWN = "unknown"
    """A fault hit nothing, or nothing was checked: the test proved nothing."""
    UNVERIFIED = "unverified"
    """Not tested: there was no test, or no server to strike."""
    PASS = "pass"  # noqa: S105
    NOT_CLAIMED = "not claimed"
    """The adapter isn't bound by it: of a rule, if it is bound by none of its tests."""


def judge(events: list[Event]) -> tuple[Verdict, list[str]]:
    """The verdict on one history, with its reasons."""
    reasons = [event.what["text"] for event in named(events, "failed")]
    reasons += [
        f"{event.what['waited_for']} did not come in time" for event in named(events, "too_late")
    ]
    reasons += broken(events)
    if reasons:
        return Verdict.FAIL, reasons
    for name, verdict in (
        ("not_claimed", Verdict.NOT_CLAIMED),
        ("unverified", Verdict.UNVERIFIED),
    ):
        for event in named(events, name):
            return verdict, [str(event.what.get("why") or event.what.get("claim"))]
    if reasons := vacuous(events):
        return Verdict.UNKNOWN, reasons
    if not any(named(events, "check")):
        return Verdict.UNKNOWN, ["nothing was checked"]
    return Verdict.PASS, []


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The verdict on a rule with several tests; unverified, if there are none."""
    order = list(Verdict)
    return min(verdicts, key=order.index, default=Verdict.UNVERIFIED)
