"""What an adapter says it can do. The conformance kit holds it to exactly that, both ways."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """Capabilities: what is claimed must work, what isn't must raise `UnsupportedError`.

    Attributes:
        fifo: jobs of one queue start in the order in which they were performed.
        durable: an accepted job survives the death of the worker's process and of the backend's.
        distributed: several processes share one backend; a performer needs no handlers.
        dead_letters: jobs that failed for good can be listed, requeued and discarded.
        notes: for a claim that needs one, how far it reaches, in a few words (`one host`).
    """

    fifo: bool
    durable: bool
    distributed: bool
    dead_letters: bool
    notes: Mapping[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, bool]:
        """The claims by name, without the notes."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "notes"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The numbers behind the claims; each is tested at N and at N + 1.

    Attributes:
        max_job_bytes: largest args of a job, as compact JSON in UTF-8 (ARGS-5).
        max_delay: farthest a job may be scheduled into the future (TIME-6).
        lateness: how late a scheduled job may start on an idle worker (TIME-2).
        recovery: from a worker's crash to the second run of its job (DUR-2, DIST-7); None: it is
            not run again.
        reconnect: from the backend's return to work going on (DUR-3, DIST-8), and until a call
            fails while the backend is unavailable (LIFE-4, PERF-8); None: the backend can't go away
            alone.
    """

    max_job_bytes: int
    max_delay: timedelta
    lateness: timedelta
    recovery: timedelta | None = None
    reconnect: timedelta | None = None
