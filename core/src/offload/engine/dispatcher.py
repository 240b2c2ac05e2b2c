"""Fetches jobs, keeps the slots busy, and drains: the heart of a running worker."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from datetime import timedelta

from offload.driver import Delivery, Intake, Leases, Settlement, Subscription, Verdict
from offload.engine.lease_keeper import LeaseKeeper
from offload.engine.logs import engine_log, job_log, shown, write
from offload.engine.outage import Outage
from offload.engine.pause import pause
from offload.engine.prefetch import Prefetch
from offload.engine.registry import Registry
from offload.engine.run import Interruption
from offload.engine.runner import Runner
from offload.engine.settler import Batch, Settler
from offload.engine.slots import Slots
from offload.engine.stop_budget import StopBudget
from offload.engine.supervisor import Supervised, end_if_cancelled, must_end
from offload.errors import BackendError
from offload.job import JobContext
from offload.observers import Observers

WHAT = "no jobs can be fetched"
WAIT = "no hint of a job can be waited for, so that jobs may start late"

TOO_LATE = "job %s (%s): too late to %s it: its lease was lost, so another worker may run it again"
TRIED_BEFORE = (
    "job %s (%s): a call to %s it failed, and now it is gone: the backend did it nevertheless, or "
    "the lease was lost and another worker may run it again"
)

STALE_SECONDS = 0.2
"""Prefetched jobs that see no slot fall free in this time go back for others to take."""
IDLE_SECONDS = 5.0
"""How long an idle worker waits for a driver's hint before it looks for itself."""
RETRY_PAUSE = 3
"""How many failures the first failed wait for a hint counts as, for the pause after it."""


class Dispatcher:
    """What a worker does between start and stop. It is used once."""

    def __init__(
        self,
        subscription: Subscription,
        registry: Registry,
        observers: Observers,
        slots: Slots,
        longest_delay: timedelta,
    ) -> None:
        self.subscription = subscription
        self._observers = observers
        self._slots = slots
        self._loop = asyncio.get_running_loop()
        self._outage = Outage()
        self._settler = Settler(subscription, self._settled, self._outage)
        self._runner = Runner(
            registry,
            observers,
            self._settler,
            longest_delay,
            slots,
            lambda: self._settle_loop.was_cancelled,
        )
        slots.on_change = self._use_slots
        self.runs_caller = self._runner.runs_caller

        self._buffer: deque[Delivery] = deque()
        self._is_filling = False
        self._is_fetching = False
        self._interruptible = False
        self._patience: asyncio.Timeout | None = None
        """Of the wait for jobs that is under way."""
        self._failed_waits = 0
        """In a row."""
        self._outage_of_waits = Outage()
        """Told by itself: what goes on beside it, a real outage, is to be told as well."""
        self._room = asyncio.Event()
        self._stale_timer: asyncio.TimerHandle | None = None

        # First what may fail: there may be no thread left.
        self._lease_keeper = (
            LeaseKeeper(subscription, self._held, self._lost_from_thread, self._outage)
            if isinstance(subscription, Leases)
            else None
        )
        self._settle_loop = Supervised(self._settler.run, "settle", self._runner.end_unbegun)
        self._fetch_loop = Supervised(self._fetch, "fetch", self._runner.end_unbegun)

    # -- fetching ------------------------------------------------------------

    async def _fetch(self) -> None:
        failures = 0
        prefetch = Prefetch()
        self._use_buffer()  # of a life before, which ended with an error
        while not self._runner.stopping:
            held = self._slots.busy + len(self._buffer) + self._settler.unsettled
            limit = self._slots.count + prefetch.update(self._runner.ended_jobs) - held
            if not self._buffer:
                # Verdicts on their way must not keep a free slot waiting.
                limit = max(limit, self._slots.count - self._slots.busy)
            if limit <= 0:
                self._room.clear()
                await self._interruptibly(self._room.wait())
                continue
            try:
                deliveries, next_due_ms = await self._fetch_once(limit)
            except BaseException as error:
                if must_end(self._loop):
                    raise
                self._outage.fails(WHAT, error)
                failures += 1
                await self._interruptibly(pause(failures))
                continue
            failures = 0
            self._outage.works(WHAT)
            self._buffer += deliveries
            self._use_buffer()
            end_if_cancelled()
            if not deliveries and not self._runner.stopping:
                wait = IDLE_SECONDS
                if next_due_ms is not None:
                    wait = min(wait, next_due_ms / 1000)
                await self._wait_for_jobs(wait)

    async def _fetch_once(self, limit: int) -> tuple[list[Delivery], int | None]:
        self._is_fetching = True
        try:
            fetched = await self.subscription.fetch(limit)
            return list(fetched.deliveries), fetched.next_due_ms
        finally:
            self._is_fetching = False

    async def _wait_for_jobs(self, seconds: float) -> None:
        patience = self._patience = asyncio.timeout(None)
        try:
            async with patience:
                await self._interruptibly(self.subscription.wait(seconds))
        except BaseException as error:
            if patience.expired() and isinstance(error, TimeoutError):
                return
            if must_end(self._loop):
                raise
            # Only a hint: if the backend is unavailable, the next fetch finds that out. But that
            # a wait fails again, after a fetch that didn't, nobody else would tell.
            self._failed_waits += 1
            if self._failed_waits > 1 or not isinstance(error, BackendError):
                self._outage_of_waits.fails(WAIT, error)
            await self._interruptibly(pause(RETRY_PAUSE - 1 + self._failed_waits))
        else:
            self._failed_waits = 0
            self._outage_of_waits.works(WAIT)
        finally:
            self._patience = None

    async def _interruptibly(self, waiting: Awaitable[object]) -> None:
        """Await something that a stop may cancel."""
        self._interruptible = True
        try:
            await waiting
        finally:
            self._interruptible = False

    def _use_buffer(self) -> None:
        if self._runner.stopping:
            self._give_back_buffer()
            return
        self._fill_slots()
        if self._buffer and self._stale_timer is None:
            self._watch_buffer()

    def _watch_buffer(self) -> None:
        self._stale_timer = self._loop.call_later(
            STALE_SECONDS, self._give_back_if_stale, self._runner.ended_jobs
        )

    def _give_back_if_stale(self, ended_jobs: int) -> None:
        self._stale_timer = None
        # What a fetch brings that is under way belongs behind what is here.
        if self._buffer and self._runner.ended_jobs == ended_jobs and not self._is_fetching:
            self._give_back_buffer()
        elif self._buffer:
            self._watch_buffer()

    def _give_back_buffer(self) -> None:
        # Each goes to the head of its queue, so the last one first keeps their order.
        while self._buffer:
            self._runner.release(self._buffer.pop())

    def _use_slots(self) -> None:
        self._fill_slots()
        self._room.set()

    def _fill_slots(self) -> None:
        if self._is_filling:
            return  # a run that ended within its launch: the loop below sees its slot
        self._is_filling = True
        runner = self._runner
        try:
            while self._buffer and self._slots.busy < self._slots.count and not runner.stopping:
                runner.launch(self._buffer.popleft())
        finally:
            self._is_filling = False

    # -- settling ------------------------------------------------------------

    def _settled(
        self, batch: Batch, foreign: Collection[Delivery], doubtful: Collection[int]
    ) -> None:
        tell_success = "job_succeeded" in self._observers.wanted
        gave_back = False
        for settlement, context in batch:
            is_late = bool(foreign) and settlement.delivery in foreign
            if is_late and settlement.verdict is not Verdict.RELEASE:
                write(
                    job_log.warning,
                    TRIED_BEFORE if id(settlement.delivery) in doubtful else TOO_LATE,
                    *(shown(context.id), shown(context.handler), settlement.verdict.value),
                )
            elif settlement.verdict is not Verdict.ACKNOWLEDGE:
                gave_back = gave_back or settlement.verdict is Verdict.RELEASE
                self._tell_verdict(settlement, context)
            elif tell_success:
                self._observers.tell("job_succeeded", job=context)
        self._room.set()
        if gave_back:
            self._look_again()

    def _look_again(self) -> None:
        """End the wait for jobs: no backend need wake us for those that we have given back."""
        if self._patience is not None:
            self._patience.reschedule(self._loop.time())

    def _tell_verdict(self, settlement: Settlement, context: JobContext) -> None:
        if settlement.verdict is Verdict.RETRY:
            delay = timedelta(milliseconds=settlement.delay_ms)
            self._observers.tell("job_retried", job=context, delay=delay)
        elif settlement.verdict is Verdict.DEAD_LETTER:
            error = settlement.failure.error if settlement.failure else ""
            self._observers.tell("job_dead", job=context, error=error)
        else:
            self._observers.tell("job_returned", job=context)

    # -- leases --------------------------------------------------------------

    def _held(self) -> list[Delivery]:
        runs = [run.delivery for run in list(self._runner.runs)]
        return [*runs, *list(self._buffer), *self._settler.deliveries()]

    def _lost_from_thread(self, lost: Collection[Delivery]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed without a stop
            self._loop.call_soon_threadsafe(self._lost, lost)

    def _lost(self, lost: Collection[Delivery]) -> None:
        for run in list(self._runner.runs):
            if run.delivery in lost:
                write(
                    job_log.warning,
                    "job %s (%s): its lease was lost; this run is cancelled",
                    *(shown(run.context.id), run.context.handler),
                )
                self._runner.interrupt(run, Interruption.LEASE_LOST)
        if any(delivery in lost for delivery in self._buffer):
            self._buffer = deque(d for d in self._buffer if d not in lost)

    # -- draining ------------------------------------------------------------

    def abandon(self) -> None:
        """Clear up after the loop was closed without a drain."""
        if self._lease_keeper is not None:
            self._lease_keeper.abandon()
        self._runner.close()

    async def drain(self, budget: StopBudget) -> tuple[int, list[str]]:
        """Take no new job, wait for those that run, and give back the rest.

        Returns how many jobs finished, and the ids of those that were cut short.
        """
        finished_before = self._runner.finished_jobs
        self._runner.stopping = True  # no handler begins any more
        if self._interruptible:
            self._fetch_loop.cancel()
        await asyncio.wait([self._fetch_loop.task], timeout=budget.left(budget.fetch))
        self._fetch_loop.cancel()
        if isinstance(self.subscription, Intake):
            try:
                self.subscription.end_intake()
            except Exception as error:
                write(engine_log.error, "the driver failed to end its intake", error=error)
        # Not before the last fetch has ended: what it brings belongs behind what is here, and
        # would come to the head of its queue after it.
        self._give_back_buffer()
        await self._wait_until(lambda: self._slots.busy == 0, budget.grace)
        for run in list(self._runner.runs):
            self._runner.interrupt(run, Interruption.STOPPING)
        await self._wait_until(lambda: not self._runner.runs, budget.handlers)
        for run in list(self._runner.runs):
            # It swallowed its cancellation. Its job goes back; what it does now counts no more.
            write(
                job_log.warning,
                "handler %s of job %s ignores its cancellation",
                *(run.context.handler, shown(run.context.id)),
            )
            self._runner.give_back(run)
        await asyncio.wait([self._fetch_loop.task], timeout=budget.left(budget.calls))
        await self._wait_until(lambda: self._settler.unsettled == 0, budget.calls)
        for delivery in self._settler.deliveries():
            line = (
                "job %s: it isn't known whether its verdict is stored; if not, the job runs again "
                "when its lease ends"
            )
            write(job_log.warning, line, shown(delivery.id))
            self._runner.returned.append(delivery.id)
        await self._close(budget)
        finished = self._runner.finished_jobs - finished_before
        return finished, list(dict.fromkeys(self._runner.returned))

    async def _wait_until(self, done: Callable[[], bool], deadline: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                while not done():
                    self._room.clear()
                    await self._room.wait()

    async def _close(self, budget: StopBudget) -> None:
        if self._stale_timer is not None:
            self._stale_timer.cancel()
        self._settle_loop.cancel()
        await asyncio.wait([self._settle_loop.task], timeout=budget.left(budget.cancelled))
        self._settler.close()
        if self._lease_keeper is not None:
            await self._lease_keeper.stop(budget.leases)
        self._runner.close()
