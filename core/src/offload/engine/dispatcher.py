"""Fetches jobs, keeps the slots busy, and drains: the heart of a running worker."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable
from datetime import timedelta

from offload import envelope
from offload.driver import Delivery, Failure, Leases, Settlement, Subscription, Verdict
from offload.engine.lease_keeper import LeaseKeeper
from offload.engine.prefetch import Prefetch
from offload.engine.registry import Registered, Registry
from offload.engine.run import Interruption, Run, judge, timed_out
from offload.engine.settler import Settler
from offload.engine.threads import HandlerThreads
from offload.errors import BackendError, UnknownHandlerError, WorkerStoppedError
from offload.job import JobContext, running_job
from offload.observers import Observers

log = logging.getLogger("offload")

STALE_SECONDS = 0.2
"""Prefetched jobs that see no slot fall free in this time go back for others to take."""
IDLE_SECONDS = 5.0
"""How long an idle worker waits for a driver's hint before it looks for itself."""
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0
"""Seconds between fetches while the backend is away."""
CANCEL_SECONDS = 0.3
"""How long cancelled handlers get to end, and a fetch that was under way at a stop."""

_ACKNOWLEDGE = Verdict.ACKNOWLEDGE
"""Looked up once: in 3.11 a member of an enum costs as much to find as a Settlement to make."""


class Dispatcher:
    """What a worker does between start and stop. It is used once."""

    def __init__(
        self,
        subscription: Subscription,
        registry: Registry,
        observers: Observers,
        concurrency: int,
    ) -> None:
        self.subscription = subscription
        self._registry = registry
        self._observers = observers
        self._concurrency = concurrency
        self._loop = asyncio.get_running_loop()
        # Each job starts from the context of start(), not from that of the job before it.
        self._context = contextvars.copy_context()
        # loop.create_task does no more than this, but costs half as much again.
        self._make_task: Callable[..., asyncio.Task[None]] = (
            self._loop.create_task
            if self._loop.get_task_factory()
            else functools.partial(asyncio.Task, loop=self._loop, name="offload-job")
        )
        self._threads = HandlerThreads()
        self._settler = Settler(subscription, self._settled)

        self._buffer: deque[Delivery] = deque()
        self._runs: set[Run] = set()
        self._busy_slots = 0
        self._ended_jobs = 0
        self._finished_jobs = 0
        self._returned: list[str] = []

        self._stopping = False
        self._interruptible = False
        self._room = asyncio.Event()
        self._stale_timer: asyncio.TimerHandle | None = None

        self._settle_task = self._loop.create_task(self._settler.run(), name="offload-settler")
        self._fetch_task = self._loop.create_task(self._fetch(), name="offload-fetch")
        self._lease_keeper = (
            LeaseKeeper(subscription, self._held, self._lost_from_thread)
            if isinstance(subscription, Leases)
            else None
        )

    def runs_caller(self) -> bool:
        """Whether the calling code belongs to a handler that runs here."""
        context = running_job.get(None)
        return any(run.context is context for run in list(self._runs))

    # -- fetching ------------------------------------------------------------

    async def _fetch(self) -> None:
        pause = FIRST_PAUSE
        prefetch = Prefetch()
        while not self._stopping:
            held = self._busy_slots + len(self._buffer) + self._settler.unsettled
            limit = self._concurrency + prefetch.update(self._ended_jobs) - held
            if not self._buffer:
                # Verdicts on their way must not keep a free slot waiting.
                limit = max(limit, self._concurrency - self._busy_slots)
            if limit <= 0:
                self._room.clear()
                await self._interruptibly(self._room.wait())
                continue
            try:
                fetched = await self.subscription.fetch(limit)
            except Exception as error:
                self._log_fetch_error(error)
                await self._interruptibly(asyncio.sleep(pause))
                pause = min(pause * 2, LONGEST_PAUSE)
                continue
            pause = FIRST_PAUSE
            self._accept(fetched.deliveries)
            if not fetched.deliveries and not self._stopping:
                wait = IDLE_SECONDS
                if fetched.next_due_ms is not None:
                    wait = min(wait, fetched.next_due_ms / 1000)
                await self._interruptibly(self.subscription.wait(wait))

    async def _interruptibly(self, waiting: Awaitable[object]) -> None:
        """Await something that a stop may cancel."""
        self._interruptible = True
        try:
            await waiting
        finally:
            self._interruptible = False

    def _log_fetch_error(self, error: Exception) -> None:
        if isinstance(error, BackendError):
            log.warning("no jobs can be fetched now: %s", error)
        else:
            log.error("the driver failed to fetch", exc_info=error)

    def _accept(self, deliveries: Collection[Delivery]) -> None:
        self._buffer.extend(deliveries)
        if self._stopping:
            self._give_back_buffer()
            return
        self._fill_slots()
        if self._buffer and self._stale_timer is None:
            self._watch_buffer()

    def _watch_buffer(self) -> None:
        self._stale_timer = self._loop.call_later(
            STALE_SECONDS, self._give_back_if_stale, self._ended_jobs
        )

    def _give_back_if_stale(self, ended_jobs: int) -> None:
        self._stale_timer = None
        if self._buffer and self._ended_jobs == ended_jobs:
            self._give_back_buffer()
        elif self._buffer:
            self._watch_buffer()

    def _give_back_buffer(self) -> None:
        # Each goes to the head of its queue, so the last one first keeps their order.
        while self._buffer:
            delivery = self._buffer.pop()
            self._settler.add(Settlement(delivery, Verdict.RELEASE), _context_of_unread(delivery))

    # -- running -------------------------------------------------------------

    def _fill_slots(self) -> None:
        while self._buffer and self._busy_slots < self._concurrency:
            self._launch(self._buffer.popleft())

    def _launch(self, delivery: Delivery) -> None:
        try:
            job = envelope.decode(delivery.body)
        except (envelope.UndecodableError, envelope.NewerVersionError) as error:
            self._refuse(delivery, error)
            return
        context = JobContext(
            delivery.id,
            delivery.queue,
            job.handler,
            delivery.attempt,
            job.enqueued_at,
            delivery.due_ms,
        )
        handler = self._registry.get(job.handler)
        if handler is None:
            unknown = UnknownHandlerError(f"handler {job.handler!r} is not registered here")
            self._fail(delivery, self._registry.absent, context, unknown)
            return
        if delivery.attempt > handler.max_attempts:
            self._bury_crashed(delivery, context, handler.max_attempts)
            return
        run = Run(delivery, handler, context, job.args)
        self._busy_slots += 1
        self._runs.add(run)
        run.task = self._make_task(
            self._run_async(run) if handler.is_async else self._run_in_thread(run),
            context=self._context.copy(),
        )

    def _refuse(self, delivery: Delivery, error: Exception) -> None:
        """What can't be read is dead as it is; a newer version may be read by another worker."""
        if isinstance(error, envelope.NewerVersionError):
            settlement = judge(delivery, self._registry.absent, error)
        else:
            failure = Failure(str(error), attempts=delivery.attempt - 1)
            settlement = Settlement(delivery, Verdict.DEAD_LETTER, failure=failure)
        self._settler.add(settlement, _context_of_unread(delivery))

    def _bury_crashed(self, delivery: Delivery, context: JobContext, max_attempts: int) -> None:
        """Its attempts are used up, the last of them by a crash (DUR-6)."""
        runs = delivery.attempt - 1
        failure = Failure(
            f"attempt {runs} of {max_attempts} never ended: its worker died, or lost its lease",
            attempts=runs,
        )
        self._settler.add(Settlement(delivery, Verdict.DEAD_LETTER, failure=failure), context)

    async def _run_async(self, run: Run) -> None:
        handler = run.handler
        error: BaseException | None = None
        deadline: asyncio.Timeout | None = None
        try:
            running_job.set(run.context)
            if "job_started" in self._observers.wanted:
                self._observers.tell("job_started", job=run.context)
            if handler.timeout is None:
                await handler.function(run.args)  # type: ignore[misc]
            else:
                async with asyncio.timeout(handler.timeout) as deadline:
                    await handler.function(run.args)  # type: ignore[misc]
        except BaseException as raised:
            error = raised
        if deadline is not None and deadline.expired():
            error = timed_out(handler, error)
        self._end(run, error)
        self._free_slot()

    async def _run_in_thread(self, run: Run) -> None:
        running_job.set(run.context)
        self._observers.tell("job_started", job=run.context)
        call = self._threads.call(contextvars.copy_context(), run.handler.function, run.args)
        error: BaseException | None = None
        deadline = asyncio.timeout(run.handler.timeout)
        try:
            async with deadline:
                outcome = await asyncio.shield(call)
                error = outcome.error
                if error is None and hasattr(outcome.value, "__await__"):
                    await outcome.value
        except BaseException as raised:
            error = raised
        if deadline.expired():
            error = timed_out(run.handler, error)
        self._end(run, error)
        if call.done():
            self._free_slot()
        else:
            self._room.set()
            log.warning(
                "handler %s of job %s can't be stopped and keeps its slot until it ends",
                run.context.handler,
                run.context.id,
            )
            call.add_done_callback(lambda _: self._free_slot())

    def _end(self, run: Run, error: BaseException | None) -> None:
        self._runs.discard(run)
        self._ended_jobs += 1
        if error is None:
            self._finished_jobs += 1
            self._settler.add(Settlement(run.delivery, _ACKNOWLEDGE), run.context)
        elif run.interruption is Interruption.LEASE_LOST:
            self._observers.tell("job_returned", job=run.context)
        elif run.interruption or (self._stopping and isinstance(error, WorkerStoppedError)):
            self._return(run)
        else:
            self._finished_jobs += 1
            self._fail(run.delivery, run.handler, run.context, error)

    def _return(self, run: Run) -> None:
        self._returned.append(run.context.id)
        self._settler.add(Settlement(run.delivery, Verdict.RELEASE), run.context)

    def _free_slot(self) -> None:
        self._busy_slots -= 1
        while self._buffer and self._busy_slots < self._concurrency:
            self._launch(self._buffer.popleft())
        self._room.set()

    def _fail(
        self,
        delivery: Delivery,
        handler: Registered,
        context: JobContext,
        error: BaseException,
    ) -> None:
        self._settler.add(judge(delivery, handler, error), context)
        self._observers.tell("job_failed", job=context, error=error)

    # -- settling ------------------------------------------------------------

    def _settled(
        self, batch: Iterable[tuple[Settlement, JobContext]], foreign: Collection[Delivery]
    ) -> None:
        tell_success = "job_succeeded" in self._observers.wanted
        for settlement, context in batch:
            if foreign and settlement.delivery in foreign:
                log.warning(
                    "job %s (%s): too late to %s it; its lease was lost and it runs again",
                    context.id,
                    context.handler,
                    settlement.verdict.value,
                )
            elif settlement.verdict is not Verdict.ACKNOWLEDGE:
                self._tell_verdict(settlement, context)
            elif tell_success:
                self._observers.tell("job_succeeded", job=context)
        self._room.set()

    def _tell_verdict(self, settlement: Settlement, context: JobContext) -> None:
        if settlement.verdict is Verdict.RETRY:
            delay = timedelta(milliseconds=settlement.delay_ms)
            self._observers.tell("job_retried", job=context, delay=delay)
        elif settlement.verdict is Verdict.DEAD_LETTER:
            error = settlement.failure.error if settlement.failure else ""
            log.error("job %s (%s) is a dead letter: %s", context.id, context.handler, error)
            self._observers.tell("job_dead", job=context, error=error)
        else:
            self._observers.tell("job_returned", job=context)

    # -- leases --------------------------------------------------------------

    def _held(self) -> list[Delivery]:
        runs = [run.delivery for run in list(self._runs)]
        return [*runs, *list(self._buffer), *self._settler.deliveries()]

    def _lost_from_thread(self, lost: Collection[Delivery]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed without a stop
            self._loop.call_soon_threadsafe(self._lost, lost)

    def _lost(self, lost: Collection[Delivery]) -> None:
        for run in list(self._runs):
            if run.delivery in lost:
                log.warning(
                    "job %s (%s): its lease was lost; this run is cancelled",
                    run.context.id,
                    run.context.handler,
                )
                run.interrupt(Interruption.LEASE_LOST)
        if any(delivery in lost for delivery in self._buffer):
            self._buffer = deque(d for d in self._buffer if d not in lost)

    # -- draining ------------------------------------------------------------

    def abandon(self) -> None:
        """Clear up after the loop was closed without a drain."""
        if self._lease_keeper is not None:
            self._lease_keeper.abandon()
        self._threads.close()

    async def drain(self, grace: float, deadline: float) -> tuple[int, list[str]]:
        """Take no new job, wait for those that run, and give back the rest.

        Args:
            grace: seconds for running handlers to end.
            deadline: the loop's time at which this must be over, whatever the backend does.

        Returns how many jobs finished, and the ids of those that were cut short.
        """
        grace_ends = self._loop.time() + grace
        finished_before = self._finished_jobs
        self._stopping = True
        if self._interruptible:
            self._fetch_task.cancel()
        await asyncio.wait([self._fetch_task], timeout=CANCEL_SECONDS)
        self._fetch_task.cancel()
        self._give_back_buffer()
        await self._wait_until(lambda: self._busy_slots == 0, grace_ends)
        for run in list(self._runs):
            run.interrupt(Interruption.STOPPING)
        await self._wait_until(lambda: not self._runs, self._loop.time() + CANCEL_SECONDS)
        for run in self._runs:
            # It swallowed its cancellation. Its job goes back; what it does now counts no more.
            log.warning(
                "handler %s of job %s ignores its cancellation", run.context.handler, run.context.id
            )
            self._return(run)
        await self._wait_until(lambda: self._settler.unsettled == 0, deadline)
        for delivery in self._settler.deliveries():
            log.warning("job %s is not settled; it runs again when its lease ends", delivery.id)
            self._returned.append(delivery.id)
        await self._close()
        return self._finished_jobs - finished_before, list(dict.fromkeys(self._returned))

    async def _wait_until(self, done: Callable[[], bool], deadline: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                while not done():
                    self._room.clear()
                    await self._room.wait()

    async def _close(self) -> None:
        if self._stale_timer is not None:
            self._stale_timer.cancel()
        self._settle_task.cancel()
        await asyncio.wait([self._settle_task])
        if self._lease_keeper is not None:
            await self._lease_keeper.stop()
        self._threads.close()


def _context_of_unread(delivery: Delivery) -> JobContext:
    """What can be told of a job whose envelope wasn't opened."""
    return JobContext(delivery.id, delivery.queue, "", delivery.attempt, 0, delivery.due_ms)
