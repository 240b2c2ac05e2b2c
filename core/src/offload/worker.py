"""The first door: `Worker`, the whole of what an application sees of a backend."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, TypeVar

import msgspec

from offload.claims import Claims, Limits
from offload.errors import OffloadError, UnsupportedError, UsageError
from offload.job import Args, Handler, Job, instant_of

if TYPE_CHECKING:
    import asyncio

    from offload.retry import Backoff
    from offload.sync import SyncWorker

H = TypeVar("H", bound=Handler)


class State(Enum):
    """Where a worker stands in its life (LIFE-1).

    Attributes:
        NEW: it was never started, or its first start failed.
        RUNNING: it takes jobs.
        STOPPING: `stop` was called, and running handlers are being waited for.
        STOPPED: it takes and performs no job until it is started again.
    """

    NEW = "new"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class StopReport:
    """What became of the jobs that a worker held when it stopped (LIFE-13).

    Attributes:
        finished: how many jobs ended, in success or failure, between `stop` and its return.
        returned: ids of jobs that were cut short and run again, since they were handed back to a
            backend that outlives this process. Besides, those whose verdict it didn't confirm in
            time, which run again unless it has the verdict.
        lost: ids of jobs that only this process remembers: they run if this worker starts again.
    """

    finished: int = 0
    returned: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()


class QueueCounts(msgspec.Struct, frozen=True):
    """How many jobs of a queue are in each state. None: the backend can't tell.

    Attributes:
        waiting: due, and not yet taken by a worker.
        scheduled: due later, retries included.
        running: leased to a worker, its prefetched jobs included.
        dead: given up, and among the dead letters.
    """

    waiting: int = 0
    scheduled: int | None = 0
    running: int | None = 0
    dead: int = 0


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A job that failed for good.

    Attributes:
        id: what `perform` returned.
        queue: where it waited.
        handler: the name of its handler; None when the stored bytes can't be read.
        args: its args; None when the stored bytes can't be read.
        attempts: how many runs there were.
        error: the class and the text of the last run's exception.
        traceback: the end of its traceback.
        died_ms: when it was given up, by the backend's clock: milliseconds since the epoch.
        cursor: its place in the list, to begin a page behind; it stays good when the letter is
            gone.
    """

    id: str
    queue: str
    handler: str | None
    args: Args | None
    attempts: int
    error: str
    traceback: str
    died_ms: int
    cursor: str = ""

    def __post_init__(self) -> None:
        if not self.cursor:
            object.__setattr__(self, "cursor", self.id)

    @property
    def died_at(self) -> datetime:
        """When it was given up, by the backend's clock."""
        return instant_of(self.died_ms)


class DeadLetters(Protocol):
    """Access to the dead letters of a backend."""

    async def list(self, limit: int = 100, after: str | None = None) -> Sequence[DeadLetter]:
        """A page of up to `limit`, the oldest first (DEAD-1).

        Args:
            limit: how many letters at most.
            after: the `cursor` of a letter, behind which the page begins, whether or not that
                letter is still there (DEAD-4).

        Raises:
            UsageError: `after` is no cursor of this backend.
        """
        ...

    async def show(self, job_id: str) -> DeadLetter | None:
        """The dead letter with this id; None if there is none."""
        ...

    async def requeue(self, ids: Sequence[str]) -> Sequence[str]:
        """Let these run again, as attempt 1; returns the ids that were dead (DEAD-2)."""
        ...

    async def discard(self, ids: Sequence[str]) -> Sequence[str]:
        """Forget these for ever; returns the ids that were dead (DEAD-3)."""
        ...

    async def requeue_all(self) -> int:
        """Let all that are there now run again; returns how many. What dies again is left."""
        ...

    async def discard_all(self) -> int:
        """Forget all that are there now for ever; returns how many."""
        ...


class Worker(abc.ABC):
    """Performs jobs now or later, and runs their handlers.

    The seven abstract members are the contract. The others are made of them,
    or raise `UnsupportedError` until an adapter offers more.
    """

    claims: Claims
    """What its adapter claims; `connect` sets it."""
    limits: Limits
    """The numbers behind the claims; `connect` sets it."""
    loop: asyncio.AbstractEventLoop | None = None
    """The event loop that this worker is bound to, if it is; `sync` sends its calls there."""

    @property
    @abc.abstractmethod
    def state(self) -> State:
        """Where this worker stands in its life (LIFE-1)."""

    @abc.abstractmethod
    async def start(self) -> None:
        """Begin to take jobs; return when the worker does (LIFE-2).

        Raises:
            AlreadyRunningError: it runs, or is still draining; nothing changes (LIFE-3).
            BackendUnavailableError: the backend is unavailable; start may be called again (LIFE-4).
        """

    @abc.abstractmethod
    async def stop(self) -> StopReport:
        """Take no new job, let running handlers end, and close (LIFE-5 to LIFE-13).

        Handlers get the `grace` to end; then those that can be are cancelled
        and their jobs go back. Every call returns after the one drain, except
        from a handler of this worker: there it starts the drain and returns
        an empty report at once (LIFE-11).
        """

    @abc.abstractmethod
    async def perform(self, job: Job) -> str:
        """Enqueue a job to run as soon as may be; return its id when it is safe (PERF-1).

        Raises:
            InvalidJobError: names or args that can't be carried (PERF-4, ARGS-4).
            JobTooLargeError: args over the backend's `max_job_bytes` (ARGS-5).
            UnknownHandlerError, UnknownQueueError: nobody could run it (PERF-6, QUE-2).
            WorkerStoppedError: `stop` was called (LIFE-5).
            BackendUnavailableError: the backend is unavailable, or the worker was stopped before it
                answered; `maybe_stored` says whether the job may have been stored all the same
                (PERF-8).
        """

    @abc.abstractmethod
    async def perform_in(self, job: Job, delay: timedelta | float) -> str:
        """Enqueue a job to run after a delay (a timedelta, or seconds); otherwise as `perform`.

        Zero or less: at once. Never early, by the backend's clock (TIME-1).

        Raises:
            InvalidJobError: besides, a delay that is not a finite number (TIME-4).
            UnsupportedError: farther than the backend's `max_delay` (TIME-6).
        """

    @abc.abstractmethod
    async def perform_at(self, job: Job, when: datetime) -> str:
        """Enqueue a job to run at an instant, in any zone; otherwise as `perform_in`.

        Raises:
            InvalidJobError: besides, a datetime without a zone (TIME-4).
        """

    @abc.abstractmethod
    def register(
        self,
        name: str,
        handler: Handler,
        *,
        max_attempts: int | None = None,
        backoff: Backoff | None = None,
        timeout: timedelta | float | None = None,
    ) -> None:
        """Let `handler` run the jobs of this name, from now on (REG-4).

        The options hold for the jobs that this worker runs. A worker that only performs
        them has no say in their attempts and backoff (FAIL-1).

        Args:
            name: 1 to 128 of `A-Z a-z 0-9 _ . : -`.
            handler: `def` or `async def`, called with the args.
            max_attempts: runs before the job is a dead letter; the worker's, if not given.
            backoff: waits between attempts; exponential from one second, if not given.
            timeout: a timedelta or seconds, after which a run has failed (FAIL-5). A `def`
                handler can't be stopped: it keeps its slot until it ends.

        Raises:
            ValueError: a bad name or option (REG-1), or a timeout that the backend doesn't
                leave to a run.
            TypeError: not callable, or not with the args alone; or a class, or a function with
                a `yield` in it: a call of these would run nothing (REG-2).
            DuplicateHandlerError: the name is taken; the first handler stays (REG-3).
        """

    def handler(
        self,
        name: str,
        *,
        max_attempts: int | None = None,
        backoff: Backoff | None = None,
        timeout: timedelta | float | None = None,
    ) -> Callable[[H], H]:
        """`register` as a decorator, with the same options.

        Raises:
            TypeError: it is written without parentheses and a name.
        """
        if callable(name):
            given = getattr(name, "__name__", "name")
            raise TypeError(
                f'a handler has a name: write @worker.handler("{given}"), not @worker.handler'
            )

        def decorate(handler: H) -> H:
            self.register(
                name, handler, max_attempts=max_attempts, backoff=backoff, timeout=timeout
            )
            return handler

        return decorate

    async def perform_many(self, jobs: Iterable[Job]) -> list[str]:
        """Perform several jobs; return their ids in order.

        A malformed one among them is refused, by its index, before any is enqueued (PERF-4).
        Not all or nothing: they are stored in order, in batches, and the first batch that fails
        ends the call. If any were stored by then, the error has `maybe_stored`. A call that is
        cancelled may have stored some of them.
        """
        from offload.validation import check_job, named  # the engine's workers never come here

        jobs = list(jobs)
        for index, job in enumerate(jobs):
            try:
                check_job(job, self.limits)
            except UsageError as error:
                raise named(error, jobs, index) from None
        ids: list[str] = []
        for job in jobs:
            try:
                ids.append(await self.perform(job))
            except OffloadError as error:
                error.maybe_stored = error.maybe_stored or bool(ids)
                raise
        return ids

    async def counts(self) -> Mapping[str, QueueCounts]:
        """How many jobs wait, are scheduled, run and are dead, by queue.

        A queue that is missing holds no job. Some backends can look only at the
        queues that this worker has, or has performed into: see the adapter's README.

        Raises:
            UnsupportedError: the backend can't count.
        """
        raise UnsupportedError(f"{self!r} can't count its jobs")

    @property
    def dead_letters(self) -> DeadLetters:
        """The jobs that failed for good.

        Raises:
            UnsupportedError: `dead_letters` isn't claimed.
        """
        raise UnsupportedError(f"{self!r} gives no access to dead letters")

    def observe(self, observer: object) -> None:
        """Call the hooks of `observer` from now on; see `offload.observers`.

        Raises:
            UnsupportedError: the adapter has no observers.
        """
        raise UnsupportedError(f"{self!r} has no observers")

    @property
    def sync(self) -> SyncWorker:
        """The same calls for code without an event loop, safe from any thread."""
        facade: SyncWorker | None = self.__dict__.get("_sync")
        if facade is None:
            facade = self.__dict__["_sync"] = self._make_sync()
        return facade

    def _make_sync(self) -> SyncWorker:
        from offload.sync import SyncWorker  # most programs never ask for it

        return SyncWorker(self)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()
