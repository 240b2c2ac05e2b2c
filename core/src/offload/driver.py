"""The second door for adapters: a few storage primitives, in batches.

Write a `Driver` and core's engine makes a `Worker` of it, with lifecycle,
validation, concurrency, timeouts, retries and draining done. For a library that
runs its own loop there is `PushDriver`. Both are certified alike.

What holds for every method of a driver:

- It raises `BackendUnavailableError` when the backend is unavailable, within a
  bound of its own, and never hangs.
- Cancelling it leaves the driver usable; the outcome of that one call is then
  unknown. A stop cancels what would outlast it.
- One step each: a crash inside it may duplicate a job, never lose it.
- Due times are judged by the backend's clock, in whole milliseconds since the
  epoch, rounded so that nothing is ever early.

What the engine promises in return, which calls may overlap among it, is in
`docs/write-an-adapter.md`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from enum import Enum
from typing import Any, Protocol, runtime_checkable

import msgspec

from offload.worker import QueueCounts


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A job to store.

    Attributes:
        id: unique, given by the engine.
        queue: the name of the queue that it waits in.
        body: the job's bytes, for the driver to keep as they are.
        delay_ms: milliseconds from now until it is due, by the backend's clock.
        at_ms: the instant at which it is due, in milliseconds since the epoch; if it is given,
            `delay_ms` is 0.
    """

    id: str
    queue: str
    body: bytes
    delay_ms: int = 0
    at_ms: int | None = None


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """A job handed to one worker, which alone may run and settle it while the lease lasts.

    Attributes:
        id: that of its entry.
        queue: that of its entry.
        body: that of its entry.
        attempt: which run this is, from 1; runs that a crash cut short count.
        due_ms: when this attempt was due, in milliseconds since the epoch.
        receipt: the driver's own, which the engine never looks at: what it needs to settle this
            delivery and no other run of the job.
    """

    id: str
    queue: str
    body: bytes
    attempt: int
    due_ms: int
    receipt: Any


class Failure(msgspec.Struct, frozen=True):
    """Why a run failed, to be kept with the job.

    Attributes:
        error: the class and the text of the exception, at most 1,000 characters.
        traceback: its end, at most 16,000 characters; empty when the backend has refused it.
        attempts: how many runs there were.
    """

    error: str
    traceback: str = ""
    attempts: int = 0


class Verdict(Enum):
    """What becomes of a delivered job.

    Attributes:
        ACKNOWLEDGE: done, so forget it.
        RETRY: failed, so deliver it again after `delay_ms`, as the next attempt.
        DEAD_LETTER: failed for good, so keep it among the dead letters, with its failure.
        RELEASE: not finished, so give it back; this attempt doesn't count. It goes to the head of
            its queue if `fifo` is claimed (FIFO-3).
    """

    ACKNOWLEDGE = "acknowledge"
    RETRY = "retry"
    DEAD_LETTER = "dead letter"
    RELEASE = "release"


class Settlement(msgspec.Struct, frozen=True, gc=False):
    """A verdict on one delivery.

    Attributes:
        delivery: as `fetch` returned it.
        verdict: what becomes of the job.
        delay_ms: of a RETRY, milliseconds from now until it is due, by the backend's clock.
        failure: of a RETRY or a DEAD_LETTER, why the run failed.
    """

    delivery: Delivery
    verdict: Verdict
    delay_ms: int = 0
    failure: Failure | None = None


class Fetched(msgspec.Struct, frozen=True, gc=False):
    """What one fetch brought.

    Attributes:
        deliveries: the jobs that are leased now, in the order in which they are to start.
        next_due_ms: how long until the next scheduled job is due, in milliseconds by the backend's
            clock from the moment of this answer; None if the driver knows of none.
    """

    deliveries: Sequence[Delivery]
    next_due_ms: int | None = None


class Subscription(Protocol):
    """The consuming side of a driver, for a fixed set of queues."""

    async def fetch(self, limit: int) -> Fetched:
        """Lease up to `limit` jobs that are due, without waiting for any.

        No queue starves another (QUE-3). When the worker stops, a fetch gets 0.3 s to end; then it
        is cancelled, and what it leased meanwhile is for `close` to give back.
        """
        ...

    async def wait(self, timeout: float) -> None:
        """Return when a fetch may bring something, or after `timeout` seconds.

        Only a hint, and cancelled freely: it takes no job. A job that arrives
        between the last fetch and this call ends it at once. A driver whose waits
        all fail still works, but its jobs may start late.
        """
        ...

    async def settle(self, settlements: Sequence[Settlement]) -> Collection[Delivery]:
        """Carry out each verdict, and return the deliveries that were no longer ours (DUR-8).

        When it raises, the same verdicts come again, perhaps in other batches: what was carried
        out already is then no longer ours.
        """
        ...

    async def close(self) -> None:
        """Stop consuming. What was leased and not settled goes back at once, where it can."""
        ...


@runtime_checkable
class Leases(Protocol):
    """A subscription whose leases run out unless they are extended.

    Attributes:
        lease: how long a delivery is held after `fetch` or `extend`.
    """

    lease: timedelta

    def extend(self, deliveries: Collection[Delivery]) -> Collection[Delivery]:
        """Hold these for another `lease`, and return those that are no longer ours.

        A plain function, called every third of the lease from a thread of the
        engine, so that a handler which blocks the event loop loses no lease.
        After one that raises, the next comes four times as soon.
        """
        ...


@runtime_checkable
class Intake(Protocol):
    """A subscription that goes on taking jobs from its backend until it is told to end that."""

    def end_intake(self) -> None:
        """Take no more, since the worker drains. Nothing is fetched after this call.

        A plain function: what takes time goes on by itself, and `close` waits for it.
        """
        ...


class Driver(Protocol):
    """The storing side of a backend, and the way to a subscription."""

    async def open(self) -> None:
        """Connect. After a failure, it may be called again."""
        ...

    async def enqueue(self, entries: Sequence[Entry]) -> None:
        """Store these, and return when all are safe.

        At most 1,000 entries, whose bodies have at most 4 MiB together unless it is one entry.
        When it raises, none is stored, unless the error says `maybe_stored`.
        """
        ...

    async def subscribe(self, queues: Sequence[str]) -> Subscription:
        """Begin to consume these queues."""
        ...

    async def close(self) -> Sequence[str]:
        """Disconnect; the driver may be opened again.

        Returns the ids of the jobs that nothing but this object remembers:
        none, if the backend outlives it.
        """
        ...


@runtime_checkable
class SyncEnqueue(Protocol):
    """A driver that also stores entries for threads without an event loop: `worker.sync` uses it.

    Over one connection of its own, made by the plain client of its library, whatever an event loop
    does with the driver meanwhile. Both are plain functions, and a child of a fork never calls
    those of the driver that its parent has: it gets a driver of its own.
    """

    def enqueue_sync(self, entries: Sequence[Entry]) -> None:
        """`enqueue`, from the calling thread; connect if need be.

        Calls come one at a time, from whatever thread. One that is interrupted by an exception, as
        by Ctrl-C, leaves the driver usable.
        """
        ...

    def close_sync(self) -> None:
        """Disconnect; the next `enqueue_sync` connects again.

        It may come from another thread amid an `enqueue_sync`, which then soon raises
        `BackendUnavailableError`, as far as the library lets it.
        """
        ...


@runtime_checkable
class ClaimNotes(Protocol):
    """A driver that learns from its backend how far a claim reaches."""

    def claim_notes(self) -> Mapping[str, str]:
        """A few words by claim, as in `Claims.notes`; asked after each `open`."""
        ...


@runtime_checkable
class RunLimit(Protocol):
    """A driver whose backend takes a job away from a worker that runs it for too long.

    Attributes:
        longest_run: a handler whose timeout isn't shorter is refused; see `Worker.register`.
    """

    longest_run: timedelta


@runtime_checkable
class Counts(Protocol):
    """A driver that can tell how much there is of everything, or of most."""

    async def counts(self) -> Mapping[str, QueueCounts]:
        """The counts of every queue that holds a job, or may hold one that can't be counted.

        What can't be told is None, never a guess. A look makes nothing.
        """
        ...


class StoredDeadLetter(msgspec.Struct, frozen=True):
    """A dead letter as the driver keeps it.

    Attributes:
        id: that of its entry.
        queue: that of its entry.
        body: that of its entry; it may not decode.
        died_ms: when it was given up, in milliseconds since the epoch, by the backend's clock.
        failure: that of the verdict.
        cursor: its place in the order of the list, for `list_dead`; an empty one stands for the id.
    """

    id: str
    queue: str
    body: bytes
    died_ms: int
    failure: Failure
    cursor: str = ""


@runtime_checkable
class DeadLetterStore(Protocol):
    """A driver that gives access to dead letters. Unknown ids are passed over."""

    async def list_dead(self, limit: int, after: str | None) -> Sequence[StoredDeadLetter]:
        """Up to `limit`, the oldest first, beginning behind the place `after`.

        That is the `cursor` of a letter, which may be gone by now: a page neither
        starts over nor ends because of it (DEAD-4). Raises `UsageError` for what
        is no cursor of this driver's.
        """
        ...

    async def show_dead(self, job_id: str) -> StoredDeadLetter | None:
        """The one with this id; None if there is none."""
        ...

    async def requeue_dead(self, ids: Sequence[str]) -> Sequence[str]:
        """Put these back into their queues as attempt 1, and return the ids that were.

        In one step each: a job and its dead letter are never both there, nor both gone.
        """
        ...

    async def discard_dead(self, ids: Sequence[str]) -> Sequence[str]:
        """Forget these for ever, and return the ids that were."""
        ...


@runtime_checkable
class DeadLetterSweep(Protocol):
    """A store that takes out all of its dead letters in one pass, where pages would be slow."""

    async def requeue_all_dead(self) -> int:
        """`requeue_dead` of all that are there now, and none that dies meanwhile. Return how many.

        When it fails in the middle, the error says how many were requeued before.
        """
        ...

    async def discard_all_dead(self) -> int:
        """`discard_dead` of all that are there now; otherwise as `requeue_all_dead`."""
        ...
