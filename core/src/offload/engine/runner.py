"""Runs jobs: each in a task of its own, and the verdict on it goes to the settler."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import logging
from collections.abc import Callable

from offload import envelope
from offload.driver import Delivery, Failure, Settlement, Verdict
from offload.engine.registry import Registered, Registry
from offload.engine.run import Interruption, Run, judge, timed_out
from offload.engine.settler import Settler
from offload.engine.threads import HandlerThreads
from offload.errors import UnknownHandlerError, WorkerStoppedError
from offload.job import JobContext, running_job
from offload.observers import Observers

job_log = logging.getLogger("offload.job")

_ACKNOWLEDGE = Verdict.ACKNOWLEDGE
"""Looked up once: in 3.11 a member of an enum costs as much to find as a Settlement to make."""


class Runner:
    """Turns deliveries into runs, and runs into settlements."""

    def __init__(
        self,
        registry: Registry,
        observers: Observers,
        settler: Settler,
        moved: Callable[[], None],
    ) -> None:
        """`moved` is called when a run has ended, and when a slot has fallen free."""
        self._registry = registry
        self._observers = observers
        self._settler = settler
        self._moved = moved
        loop = asyncio.get_running_loop()
        # Each job starts from the context of start(), not from that of the job before it.
        self._context = contextvars.copy_context()
        # loop.create_task does no more than this, but costs half as much again.
        self._make_task: Callable[..., asyncio.Task[None]] = (
            loop.create_task
            if loop.get_task_factory()
            else functools.partial(asyncio.Task, loop=loop, name="offload-job")
        )
        self._threads = HandlerThreads()

        self.runs: set[Run] = set()
        self.busy_slots = 0
        """As many as there are runs, and handlers that go on in a thread after theirs."""
        self.ended_jobs = 0
        self.finished_jobs = 0
        """Those of them whose handlers came to an end of their own."""
        self.returned: list[str] = []
        """Ids of the jobs that were cut short."""
        self.stopping = False

    def runs_caller(self) -> bool:
        """Whether the calling code belongs to a handler that runs here."""
        context = running_job.get(None)
        return any(run.context is context for run in list(self.runs))

    def launch(self, delivery: Delivery) -> None:
        """Run this in a free slot, or settle it at once if it can't be run."""
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
        self.busy_slots += 1
        self.runs.add(run)
        run.task = self._make_task(
            self._run_async(run) if handler.is_async else self._run_in_thread(run),
            context=self._context.copy(),
        )

    def release(self, delivery: Delivery) -> None:
        """Give back what was never launched."""
        self._settler.add(Settlement(delivery, Verdict.RELEASE), _context_of_unread(delivery))

    def close(self) -> None:
        """End the threads, each when its handler lets it."""
        self._threads.close()

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
            self._moved()
            job_log.warning(
                "handler %s of job %s can't be stopped and keeps its slot until it ends",
                run.context.handler,
                run.context.id,
            )
            call.add_done_callback(lambda _: self._free_slot())

    def _end(self, run: Run, error: BaseException | None) -> None:
        self.runs.discard(run)
        self.ended_jobs += 1
        if error is None:
            self.finished_jobs += 1
            self._settler.add(Settlement(run.delivery, _ACKNOWLEDGE), run.context)
        elif run.interruption is Interruption.LEASE_LOST:
            self._observers.tell("job_returned", job=run.context)
        elif run.interruption or (self.stopping and isinstance(error, WorkerStoppedError)):
            self.give_back(run)
        else:
            self.finished_jobs += 1
            self._fail(run.delivery, run.handler, run.context, error)

    def give_back(self, run: Run) -> None:
        """Its job was cut short, and runs again."""
        self.returned.append(run.context.id)
        self._settler.add(Settlement(run.delivery, Verdict.RELEASE), run.context)

    def _free_slot(self) -> None:
        self.busy_slots -= 1
        self._moved()

    def _fail(
        self,
        delivery: Delivery,
        handler: Registered,
        context: JobContext,
        error: BaseException,
    ) -> None:
        self._settler.add(judge(delivery, handler, error), context)
        self._observers.tell("job_failed", job=context, error=error)


def _context_of_unread(delivery: Delivery) -> JobContext:
    """What can be told of a job whose envelope wasn't opened."""
    return JobContext(delivery.id, delivery.queue, "", delivery.attempt, 0, delivery.due_ms)
