"""What was read, measured, refused or received."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from offload_conformance.checks.registry import check
from offload_conformance.history import Event, named


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
def at_most(
    _: list[Event], what: str, limit: float, actual: float, slack: float = 0.0
) -> Iterator[str]:
    """A number was measured, and isn't over its limit. The slack is what a busy host may add."""
    if not actual <= limit + slack:
        yield f"{what}: {actual:g} is over the limit of {limit + slack:g}"


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


@check
def refusal_names(events: list[Event], call: str, part: str) -> Iterator[str]:
    """The last refusal of this call names what is wrong."""
    texts = [e.what["text"] for e in named(events, "refused") if e.what["call"] == call]
    if not texts or part not in texts[-1]:
        yield f"{call}: expected {part!r} in the error, got {texts[-1:]}"


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
