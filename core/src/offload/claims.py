"""What an adapter says it can do. The conformance kit holds it to exactly that, both ways."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """Capabilities: what is claimed must work, what isn't must raise `UnsupportedError`."""

    fifo: bool
    """Jobs of one queue start in the order in which they were performed."""
    durable: bool
    """An accepted job survives the death of the worker's process and of the backend's."""
    distributed: bool
    """Several processes share one backend; a performer needs no handlers."""
    dead_letters: bool
    """Jobs that failed for good can be listed, requeued and discarded."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """For a claim that needs one: how far it reaches, in a few words (`one host`)."""

    def as_dict(self) -> dict[str, bool]:
        """The claims by name, without the notes."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "notes"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The numbers behind the claims; each is tested at N and at N + 1."""

    max_job_bytes: int
    """Largest args of a job, as compact JSON in UTF-8 (ARGS-5)."""
    max_delay: timedelta
    """Farthest a job may be scheduled into the future (TIME-6)."""
    lateness: timedelta
    """How late a scheduled job may start on an idle worker (TIME-2)."""
    recovery: timedelta | None = None
    """From a worker's crash to the second run of its job (DUR-2); None: it is not run again."""
    reconnect: timedelta | None = None
    """From the backend's return to work going on (DUR-3); None: the backend can't go away alone."""
