"""Histories made by hand, for tests of what is drawn from them."""

from __future__ import annotations

from typing import Any

from offload_conformance.history import Event


class Story(list[Event]):
    """A history that is told: each event a second after the one before, unless it says when."""

    def tell(self, name: str, *, at: float | None = None, **what: Any) -> Story:
        at = float(len(self)) if at is None else at
        self.append(Event(len(self), at, at * 1000, name, what))
        return self

    def accepted(self, tag: str, *ids: str, due: float | None = None, asked: float = 0.0) -> Story:
        what = {"due_ms": due and due * 1000, "asked_ms": asked * 1000}
        return self.tell(
            "accepted", call=f"perform {tag}", tag=tag, ids=list(ids or (tag,)), **what
        )

    def started(
        self,
        tag: str,
        attempt: int = 1,
        *,
        job: str | None = None,
        at: float | None = None,
        due: float = 0.0,
        on: str = "w",
    ) -> Story:
        wall_ms = (len(self) if at is None else at) * 1000
        what = {"worker": on, "id": job or tag, "tag": tag, "attempt": attempt}
        return self.tell("started", at=at, wall_ms=wall_ms, due_ms=due * 1000, **what)

    def ended(
        self, tag: str, attempt: int = 1, *, at: float | None = None, how: str = "returned"
    ) -> Story:
        wall_ms = (len(self) if at is None else at) * 1000
        what = {"worker": "w", "id": tag, "tag": tag, "attempt": attempt, "how": how}
        return self.tell("ended", at=at, wall_ms=wall_ms, **what)

    def checked(self, name: str, **what: Any) -> Story:
        return self.tell("check", check=name, **what)
