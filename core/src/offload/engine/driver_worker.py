"""A `Worker` made of a driver: its life, and how it performs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from offload.claims import Claims, Limits
from offload.config import CONCURRENCY, GRACE, MAX_ATTEMPTS, QUEUES, Config
from offload.driver import (
    Counts,
    DeadLetterStore,
    Driver,
    Entry,
    RunLimit,
    Subscription,
)
from offload.duration import format_duration
from offload.engine.bulk import Bulk
from offload.engine.connection import tell_of_close
from offload.engine.dead_letters import StoredDeadLetters
from offload.engine.dispatcher import Dispatcher
from offload.engine.entries import EntryMaker
from offload.engine.logs import engine_log, write
from offload.engine.lost_jobs import name_lost, name_lost_with_process
from offload.engine.processes import alive, left_to_the_parent, vigil
from offload.engine.reach import Reach
from offload.engine.registry import Registry
from offload.engine.slots import Slots
from offload.engine.states import Event, Life, Phase
from offload.engine.stop_budget import StopBudget
from offload.engine.supervisor import own_task
from offload.engine.sync_reach import SyncReach
from offload.errors import AlreadyRunningError, UsageError
from offload.job import Handler, Job, JobContext
from offload.observers import Observers
from offload.retry import Backoff
from offload.system_limits import limits_told
from offload.validation import named, read_delay, read_instant
from offload.worker import DeadLetters, QueueCounts, State, StopReport, Worker

if TYPE_CHECKING:
    from offload.sync import SyncWorker


class DriverWorker(Worker):
    """What `connect` returns for an adapter that is a driver."""

    def __init__(
        self,
        driver: Driver,
        config: Config,
        claims: Claims,
        limits: Limits,
        make: Callable[[], Driver] | None = None,
    ) -> None:
        """`make` makes another driver like this one, for other event loops and forked children."""
        self.claims, self.limits = claims, limits
        self._driver = driver
        self._make = make
        self._config = config
        self._queues = config[QUEUES]
        longest_run = driver.longest_run if isinstance(driver, RunLimit) else None
        self._registry = Registry(config[MAX_ATTEMPTS], longest_run)
        self._entries = EntryMaker(self._registry, self._queues)
        self._observers = Observers()
        self._begin_life()
        alive.add(self)

    def _begin_life(self) -> None:
        """What belongs to one process and one event loop, as it is before the first call."""
        self.loop = None
        self._life = Life(self._config)
        self._slots = Slots(self._config[CONCURRENCY])
        self._dispatcher: Dispatcher | None = None
        self._draining: asyncio.Task[StopReport] | None = None
        self._reach = Reach(self, self._life, self._driver, self._make)
        self.sync_reach = SyncReach(self._life, self._driver, self._reach.note_claims)

    def __repr__(self) -> str:
        return repr(self._life)

    @property
    def state(self) -> State:
        return self._life.state

    # -- start -------------------------------------------------------------------

    async def start(self) -> None:
        await self._reach.bind_for_start()
        if not self._life.may(Event.START):
            raise AlreadyRunningError(f"{self!r} can't be started before it has stopped")
        self._life.happens(Event.START)
        connection = self._reach.connection
        try:
            async with connection.opened() as is_new:
                if is_new:
                    self._reach.note_claims()
                try:
                    self._dispatcher = await self._subscribe()
                except BaseException:
                    is_ours = not connection.is_shared and self._life.phase is not Phase.STOPPING
                    if is_ours:  # what others use stays open, and a stop closes all
                        await connection.close(None, StopBudget(0))
                    raise
                vigil.hold(self)
                self._life.happens(Event.STARTED)
        except BaseException:
            if self._reach.connection is connection:  # else its loop was closed under it
                self._life.happens(Event.NOT_STARTED)
            raise
        write(engine_log.info, "worker started on %s", self._config)
        self._observers.tell("worker_started", worker=self)

    async def _subscribe(self) -> Dispatcher:
        connection = self._reach.connection
        with limits_told():
            subscription = await connection.calls.make(
                connection.driver.subscribe, self._queues, changes=False
            )
            try:
                return Dispatcher(
                    subscription,
                    self._registry,
                    self._observers,
                    self._slots,
                    self.limits.max_delay,
                )
            except BaseException:  # no thread was left for the leases
                await connection.close_subscription(subscription, StopBudget(0))
                raise

    # -- stop --------------------------------------------------------------------

    async def stop(self) -> StopReport:
        if self.state is State.STOPPED and not self._has_to_close:
            return StopReport()
        await self._reach.bind_here("stop")
        self._reach.ready_on = None
        if self._draining is None:
            self._life.happens(Event.STOP)
            self._draining = own_task(self._drain(), "offload-drain")
        if self._dispatcher is not None and self._dispatcher.runs_caller():
            return StopReport()
        return await asyncio.shield(self._draining)

    @property
    def _has_to_close(self) -> bool:
        """Whether something is open, or opened since the last stop."""
        reach = self._reach
        is_used_elsewhere = reach.elsewhere is not None and reach.elsewhere.is_used
        is_open = reach.connection.is_open or self.sync_reach.is_used or is_used_elsewhere
        return self._life.phase is Phase.RESTARTING or is_open

    async def _drain(self) -> StopReport:
        finished = 0
        returned: Sequence[str] = ()
        lost: Sequence[str] = ()
        budget = StopBudget(self._config[GRACE].total_seconds())
        connection = self._reach.connection
        try:
            async with connection.last_turn(budget):
                if self._dispatcher is not None:
                    if busy := self._slots.busy:
                        within = format_duration(self._config[GRACE])
                        write(engine_log.warning, "draining: %d jobs, up to %s", busy, within)
                    finished, returned = await self._dispatcher.drain(budget)
                closings = [self.sync_reach.leave(budget)]
                if self._reach.elsewhere is not None:
                    closings.append(self._reach.elsewhere.close(budget.grace_left))
                leaving = [own_task(_close_in_time(c, budget), "offload-leave") for c in closings]
                lost = await connection.close(_subscription_of(self._dispatcher), budget)
                for each in leaving:
                    await each
        except asyncio.CancelledError:
            # A second stop finishes it; or the loop ends, and the vigil finds that.
            self._draining = None
            raise
        finally:
            connection.calls.begin_again()
            if self._draining is not None:
                self._dispatcher = None
                self._draining = None
                self._life.happens(Event.DRAINED)
                vigil.release(self)
        if self._outlives_us:
            report = StopReport(finished, tuple(returned))
        else:
            report = StopReport(finished, (), tuple(dict.fromkeys([*returned, *lost])))
        name_lost(report.lost)
        write(
            engine_log.info,
            "worker stopped: %d finished, %d returned, %d lost",
            *(report.finished, len(report.returned), len(report.lost)),
        )
        self._observers.tell("worker_stopped", worker=self, report=report)
        return report

    @property
    def _outlives_us(self) -> bool:
        """Whether the jobs are where this process isn't needed for them to run."""
        return self.claims.durable or self.claims.distributed

    # -- the end of its loop, and of its process -----------------------------------

    @property
    def is_consuming(self) -> bool:
        return self._dispatcher is not None

    @property
    def is_at_work(self) -> bool:
        is_starting = self._life.phase in (Phase.STARTING, Phase.RESTARTING)
        return self._dispatcher is not None or is_starting or self._draining is not None

    def forget_loop(self) -> Subscription | None:
        """Clear up after a loop that was closed without a stop, and took every task along."""
        self._draining = None
        dispatcher, self._dispatcher = self._dispatcher, None
        if dispatcher is not None:
            line = "the event loop of %s was closed without a stop: it is stopped now"
            write(
                engine_log.warning, line, repr(self)
            )  # a record may be kept, and must not keep us
            dispatcher.abandon()
            vigil.release(self)
        self._life.happens(Event.LOOP_CLOSED)
        return _subscription_of(dispatcher)

    def leave_closed_loop(self) -> None:
        """Let go of what we hold, if our loop was closed without a stop. Called by the vigil."""
        try:
            lost = self._reach.leave_closed_loop()
            if not self._outlives_us:
                name_lost(lost)
        except Exception as error:
            tell_of_close(error)

    def begin_again_in_child(self) -> None:
        """In a forked child: what the parent has is left alone, and nothing is connected yet."""
        # Neither closed nor collected: sockets, and what watches them, are the parent's too.
        left_to_the_parent.append(dict(self.__dict__))
        if self._make is not None:
            self._driver = self._make()
        self._begin_life()

    def name_what_is_lost(self) -> None:
        """At the end of the process: a backend in its memory ends with it."""
        if self._outlives_us or not self._reach.connection.is_open:
            return
        try:
            lost = asyncio.run(_close(self._driver))
        except Exception as error:
            tell_of_close(error)
        else:
            never = "stopped" if self.state is State.RUNNING else "started"
            name_lost_with_process(lost, self._config, never)

    # -- performing ----------------------------------------------------------

    async def perform(self, job: Job) -> str:
        return await self._perform(job)

    async def perform_in(self, job: Job, delay: timedelta | float) -> str:
        return await self._perform(job, read_delay(delay, self.limits))

    async def perform_at(self, job: Job, when: datetime) -> str:
        return await self._perform(job, 0, read_instant(when, self.limits))

    async def perform_many(self, jobs: Iterable[Job]) -> list[str]:
        bulk = self._bulk(jobs)
        for batch in bulk.batches():
            with bulk.storing(batch):
                await self._reach.send(batch)
        return bulk.ids

    def _bulk(self, jobs: Iterable[Job]) -> Bulk:
        now_ms = time.time_ns() // 1_000_000
        jobs = list(jobs)
        entries = [self._make_one_of(jobs, index, now_ms) for index in range(len(jobs))]

        def stored(jobs: Sequence[Job], batch: Sequence[Entry]) -> None:
            if "job_enqueued" in self._observers.wanted:
                for job, entry in zip(jobs, batch, strict=True):
                    self._tell_enqueued(job, entry, now_ms)

        return Bulk(jobs, entries, stored)

    def _make_entry(self, job: Job, delay_ms: int, at_ms: int | None, now_ms: int) -> Entry:
        return self._entries.make(self, job, delay_ms, at_ms, now_ms)

    def _make_one_of(self, jobs: Sequence[Job], index: int, now_ms: int) -> Entry:
        try:
            return self._make_entry(jobs[index], 0, None, now_ms)
        except UsageError as error:
            raise named(error, jobs, index) from None

    async def _perform(self, job: Job, delay_ms: int = 0, at_ms: int | None = None) -> str:
        now_ms = time.time_ns() // 1_000_000
        entry = self._make_entry(job, delay_ms, at_ms, now_ms)
        reach = self._reach
        if reach.ready_on is asyncio.get_running_loop():
            await reach.connection.outbox.send((entry,))
        else:
            await reach.send((entry,))
        if "job_enqueued" in self._observers.wanted:
            self._tell_enqueued(job, entry, now_ms)
        return entry.id

    def _tell_enqueued(self, job: Job, entry: Entry, now_ms: int) -> None:
        due_ms = now_ms + entry.delay_ms if entry.at_ms is None else entry.at_ms
        context = JobContext(entry.id, entry.queue, job.handler, 0, now_ms, due_ms)
        self._observers.tell("job_enqueued", job=context)

    # -- performing from threads, for `SyncPerformer` --------------------------

    def perform_by_thread(self, job: Job, delay_ms: int = 0, at_ms: int | None = None) -> str:
        """`perform`, all of it in the calling thread."""
        now_ms = time.time_ns() // 1_000_000
        entry = self._make_entry(job, delay_ms, at_ms, now_ms)
        self.sync_reach.outbox.send((entry,))
        if "job_enqueued" in self._observers.wanted:
            self._tell_enqueued(job, entry, now_ms)
        return entry.id

    def perform_many_by_thread(self, jobs: Iterable[Job]) -> list[str]:
        """`perform_many`, likewise."""
        bulk = self._bulk(jobs)
        for batch in bulk.batches():
            with bulk.storing(batch):
                self.sync_reach.outbox.send(batch)
        return bulk.ids

    def _make_sync(self) -> SyncWorker:
        from offload.engine.sync_performer import SyncPerformer  # most programs never ask for it

        return SyncPerformer(self)

    # -- the rest ------------------------------------------------------------

    def register(
        self,
        name: str,
        handler: Handler,
        *,
        max_attempts: int | None = None,
        backoff: Backoff | None = None,
        timeout: timedelta | float | None = None,
    ) -> None:
        self._registry.add(name, handler, max_attempts, backoff, timeout)

    def observe(self, observer: object) -> None:
        self._observers.add(observer)

    async def counts(self) -> Mapping[str, QueueCounts]:
        if not isinstance(self._driver, Counts):
            return await super().counts()
        return await self._reach.look(_count)

    @property
    def dead_letters(self) -> DeadLetters:
        if not self.claims.dead_letters or not isinstance(self._driver, DeadLetterStore):
            return super().dead_letters
        return StoredDeadLetters(self._reach.look)


def _subscription_of(dispatcher: Dispatcher | None) -> Subscription | None:
    return None if dispatcher is None else dispatcher.subscription


async def _close(driver: Driver) -> Sequence[str]:
    return await driver.close()


async def _count(driver: Counts) -> Mapping[str, QueueCounts]:
    return await driver.counts()


async def _close_in_time(closing: Coroutine[Any, Any, None], budget: StopBudget) -> None:
    """Close a part of what a worker has open; a failure is logged, and ends no stop."""
    try:
        async with asyncio.timeout_at(budget.driver):
            await closing
    except Exception as error:
        tell_of_close(error)
