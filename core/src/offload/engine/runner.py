"""Runs jobs: each in a task of its own, and the verdict on it goes to the settler."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
from collections.abc import Callable
from datetime import timedelta

from offload import envelope
from offload.driver import Delivery, Settlement, Verdict
from offload.engine.failures import Failures, context_of_unread
from offload.engine.forked_handler import end_child_of
from offload.engine.job_tasks import task_maker
from offload.engine.logs import (
    engine_log,
    job_log,
    shown,
    write,
)
from offload.engine.registry import Registry
from offload.engine.results import nothing_left_of
from offload.engine.run import Interruption, Run
from offload.engine.settler import Settler
from offload.engine.slots import Slots
from offload.engine.supervisor import RESTART_SECONDS
from offload.engine.threads import HandlerThreads, Outcome
from offload.engine.verdicts import describe, let_frames_go, timed_out
from offload.errors import UnknownHandlerError, WorkerStoppedError
from offload.job import JobContext, running_job
from offload.observers import Observers

_ACKNOWLEDGE = Verdict.ACKNOWLEDGE
"""Looked up once: in 3.11 a member of an enum costs as much to find as a Settlement to make."""
AT_THE_END = "interpreter shutdown"
"""What Python says of it."""
STUBBORN_SECONDS = 0.3
"""How long a handler that was cancelled at its timeout gets to end, before its job has failed."""


class Runner:
    """Turns deliveries into runs, and runs into settlements.

    Whatever is raised on the way from a delivery to its verdict is a failure of
    that one job. Every busy slot is a handler that runs.
    """

    def __init__(
        self,
        registry: Registry,
        observers: Observers,
        settler: Settler,
        longest_delay: timedelta,
        slots: Slots,
        all_are_cancelled: Callable[[], bool],
    ) -> None:
        """`all_are_cancelled` tells whether somebody has cancelled every task of the loop."""
        self._all_are_cancelled = all_are_cancelled
        self._registry = registry
        self._observers = observers
        self._settler = settler
        self._failures = Failures(observers, settler, longest_delay)
        self._slots = slots
        self._loop = asyncio.get_running_loop()
        self._make_task = task_maker(self._loop)
        self._threads = HandlerThreads()

        self.runs: set[Run] = set()
        """Those that have no verdict yet."""
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

    # -- from a delivery to a run ------------------------------------------------

    def launch(self, delivery: Delivery) -> None:
        """Run this in a free slot, or settle it at once if it can't be run. Never raises."""
        try:
            run = self._open(delivery)
            if run is not None:
                self._begin(run)
        except BaseException as error:
            try:
                self._failures.fail(
                    delivery, self._registry.absent, context_of_unread(delivery), error
                )
            except BaseException:
                line = "a delivery can be neither run nor settled: the driver made nonsense of it"
                write(engine_log.critical, line, error=error)

    def _open(self, delivery: Delivery) -> Run | None:
        """Decode a delivery; one that can't be run is settled here."""
        try:
            job = envelope.decode(delivery.body)
        except envelope.NewerVersionError as error:  # another worker may read it
            self._failures.fail(delivery, self._registry.absent, context_of_unread(delivery), error)
            return None
        except envelope.UndecodableError as error:
            self._failures.bury(
                delivery, context_of_unread(delivery), f"{error}", delivery.attempt - 1
            )
            return None
        except Exception as error:  # a body that isn't even bytes
            reason = describe(error, 0).error
            self._failures.bury(delivery, context_of_unread(delivery), reason, delivery.attempt - 1)
            return None
        context = JobContext(
            delivery.id,
            delivery.queue,
            job.handler,
            delivery.attempt,
            job.enqueued_ms,
            delivery.due_ms,
        )
        handler = self._registry.get(job.handler)
        if handler is None:
            unknown = UnknownHandlerError(f"handler {shown(job.handler)!r} is not registered here")
            self._failures.fail(delivery, self._registry.absent, context, unknown)
            return None
        if delivery.attempt > handler.max_attempts:
            # Its attempts are used up, the last of them by a crash (DUR-6).
            # A backend that counts deliveries may have counted more than there were runs.
            runs = min(delivery.attempt - 1, handler.max_attempts)
            reason = "never ended: its worker died, or lost its lease"
            self._failures.bury(
                delivery, context, f"attempt {runs} of {handler.max_attempts} {reason}", runs
            )
            return None
        return Run(delivery, handler, context, job.args)

    def _begin(self, run: Run) -> None:
        """Make the task of a run, which takes a slot from now on."""
        self._slots.busy += 1
        self.runs.add(run)
        work = self._run_async(run) if run.handler.is_async else self._run_in_thread(run)
        try:
            run.task = self._make_task(work)
        except BaseException as error:
            work.close()
            if run in self.runs:
                self._end(run, error)
                self._slots.free()

    def release(self, delivery: Delivery) -> None:
        """Give back what was never launched. Never raises."""
        with contextlib.suppress(AttributeError):  # no delivery at all: nothing to give back
            self._settler.add(Settlement(delivery, Verdict.RELEASE), context_of_unread(delivery))

    def close(self) -> None:
        """End the threads, each when its handler lets it."""
        self._threads.close()

    # -- a run -------------------------------------------------------------------

    async def _run_async(self, run: Run) -> None:
        handler = run.handler
        error: BaseException | None = None
        try:
            running_job.set(run.context)
            if handler.timeout is not None:
                self._set_timer(run, handler.timeout)
            if "job_started" in self._observers.wanted:
                self._observers.tell("job_started", job=run.context)
            result = await handler.function(run.args)  # type: ignore[misc]
            if result is not None:
                await nothing_left_of(result)
        except BaseException as raised:
            error = raised
        end_child_of(run.context, error)
        try:
            self._end(run, error)
        finally:
            self._slots.free()
            if error is not None:
                let_frames_go(error)
                del error  # this frame has been in its traceback, too

    async def _run_in_thread(self, run: Run) -> None:
        try:
            running_job.set(run.context)
            await self._threads.room()
            if run.handler.timeout is not None:
                self._set_timer(run, run.handler.timeout)
            self._observers.tell("job_started", job=run.context)
            call = self._threads.call(contextvars.copy_context(), run.handler.function, run.args)
        except BaseException as error:
            self._end(run, error)
            self._slots.free()
        else:
            await self._follow(run, call)

    async def _follow(self, run: Run, call: asyncio.Future[Outcome]) -> None:
        """Wait for a run's thread, and end the run."""
        error: BaseException | None = None
        try:
            error, result = await asyncio.shield(call)
            if error is None and result is not None:
                await nothing_left_of(result)
        except BaseException as raised:
            error = raised
        if not call.done() and run.interruption is None:
            # Others have cancelled this task. The thread can't hear of it, and goes on.
            run.task = None
            call.add_done_callback(functools.partial(self._follow_anew, run))
            return
        try:
            self._end(run, error)
        finally:
            if call.done():
                self._slots.free()
            else:
                self._tell_stubborn(run, "can't be stopped")
                call.add_done_callback(self._end_late)
                self._slots.on_change()
            if error is not None:
                let_frames_go(error)
                del error
            del call

    def _follow_anew(self, run: Run, call: asyncio.Future[Outcome]) -> None:
        run.task = self._make_task(self._follow(run, call))

    def _end_late(self, call: asyncio.Future[Outcome]) -> None:
        """A thread's handler has ended whose job had its verdict before."""
        error = call.result().error
        if error is not None:
            let_frames_go(error)
        self._slots.free()

    def interrupt(self, run: Run, why: Interruption) -> None:
        """Cancel a run, which may not have begun: then no code of its own frees its slot."""
        run.interrupt(why)
        if run.task is not None:
            run.task.add_done_callback(lambda _: self._end_unbegun(run))

    def end_unbegun(self) -> None:
        """End the runs whose tasks somebody else cancelled before they began."""
        for run in list(self.runs):
            if run.task is not None and run.task.done():
                self._end_unbegun(run)

    def _end_unbegun(self, run: Run) -> None:
        if run in self.runs:
            self._end(run, asyncio.CancelledError("it was cancelled before it began"))
            self._slots.free()

    def _set_timer(self, run: Run, seconds: float) -> None:
        run.timer = self._loop.call_later(seconds, self._time_out, run)

    def _time_out(self, run: Run) -> None:
        """Cancel a run; if its handler doesn't hear of that, its job has failed all the same."""
        if run in self.runs and run.interruption is None:
            self.interrupt(run, Interruption.TIMED_OUT)
            run.timer = self._loop.call_later(STUBBORN_SECONDS, self._give_up, run)

    def _give_up(self, run: Run) -> None:
        if run in self.runs:
            self._tell_stubborn(run, "ignores its cancellation")
            self._end(run, None)
            self._slots.on_change()

    def _tell_stubborn(self, run: Run, how: str) -> None:
        write(
            job_log.warning,
            f"handler %s of job %s {how} and keeps its slot until it ends",
            *(run.context.handler, shown(run.context.id)),
        )

    # -- from a run to its verdict -------------------------------------------------

    def _end(self, run: Run, error: BaseException | None) -> None:
        """Give the verdict on a run, unless it has one. Never raises."""
        if run not in self.runs:
            return  # it had been given up before
        self._leave(run)
        self.ended_jobs += 1
        try:
            self._give_verdict(run, error)
        except BaseException as fault:
            self._failures.fail(run.delivery, run.handler, run.context, fault)

    def _give_verdict(self, run: Run, error: BaseException | None) -> None:
        interruption = run.interruption
        if interruption is Interruption.TIMED_OUT:
            error = timed_out(run.handler, error)
            interruption = None
        if error is None:
            self.finished_jobs += 1
            self._settler.add(Settlement(run.delivery, _ACKNOWLEDGE), run.context)
        elif interruption is Interruption.LEASE_LOST:
            # Should the lease come back, nobody else would let go of the job.
            self._settler.add(Settlement(run.delivery, Verdict.RELEASE), run.context)
        elif interruption or self._may_not_work(error):
            self.give_back(run)
        elif isinstance(error, asyncio.CancelledError) and self._all_are_cancelled():
            # By the end of the loop, most often: then there is no verdict.
            failure = (run.delivery, run.handler, run.context, error)
            self._loop.call_later(RESTART_SECONDS, self._failures.fail, *failure)
        else:
            self.finished_jobs += 1
            self._failures.fail(run.delivery, run.handler, run.context, error)

    def _may_not_work(self, error: BaseException) -> bool:
        """Whether a handler failed for want of what a worker, or a process, in its end refuses."""
        if issubclass(type(error), WorkerStoppedError):
            return self.stopping
        # No thread is made any more, and no executor takes anything.
        return type(error) is RuntimeError and AT_THE_END in str(error)

    def _leave(self, run: Run) -> None:
        self.runs.discard(run)
        if run.timer is not None:
            run.timer.cancel()
            run.timer = None

    def give_back(self, run: Run) -> None:
        """Its job was cut short, and runs again."""
        self._leave(run)
        self.returned.append(run.context.id)
        self._settler.add(Settlement(run.delivery, Verdict.RELEASE), run.context)
