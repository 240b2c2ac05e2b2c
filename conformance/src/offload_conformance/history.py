"""What happened, in order: the evidence from which every verdict is drawn."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import msgspec


class Event(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One thing that happened."""

    number: int
    """Its place in the history, from 0."""
    at: float
    """Seconds since the history began, by a clock that never steps."""
    wall_ms: float
    """Milliseconds since the epoch, by the kit's clock."""
    name: str
    what: dict[str, Any]


class History:
    """An append-only record of one test."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self.events: list[Event] = []

    def add(self, name: str, /, **what: Any) -> Event:
        """Record that something happened just now."""
        event = Event(
            number=len(self.events),
            at=time.monotonic() - self._began,
            wall_ms=time.time_ns() / 1e6,
            name=name,
            what=what,
        )
        self.events.append(event)
        return event

    def named(self, *names: str) -> list[Event]:
        """The events of these names."""
        return list(named(self.events, *names))


def named(events: list[Event], *names: str) -> Iterator[Event]:
    """The events of these names."""
    return (event for event in events if event.name in names)


def describe(event: Event) -> str:
    """A line for a person."""
    details = ", ".join(f"{key}={value!r}" for key, value in event.what.items())
    return f"{event.at:9.3f} s  {event.name:<12} {details}"
