"""A `Worker` made of a driver."""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

from offload.config import CONCURRENCY, GRACE, MAX_ATTEMPTS, QUEUES, Config
from offload.driver import ClaimNotes, Counts, DeadLetterStore, Driver, Entry, RunLimit
from offload.duration import format_duration
from offload.engine.dead_letters import StoredDeadLetters
from offload.engine.dispatcher import Dispatcher
from offload.engine.elsewhere import Elsewhere
from offload.engine.logs import write
from offload.engine.opening import Opening
from offload.engine.outbox import Outbox, batches, told_how_many
from offload.engine.registry import Registry
from offload.engine.supervisor import own_task
from offload.engine.vigil import Vigil
from offload.envelope import encode
from offload.errors import (
    AlreadyRunningError,
    BackendError,
    InvalidJobError,
    UnknownHandlerError,
    UnknownQueueError,
    UsageError,
    WorkerStoppedError,
)
from offload.job import Handler, Job, JobContext, new_job_id
from offload.loop_thread import LOOK_SECONDS, LOOKS, run_elsewhere
from offload.observers import Observers
from offload.retry import Backoff
from offload.system_limits import limits_told
from offload.validation import (
    capture_args,
    check_handler_name,
    check_queue_name,
    named,
    read_delay,
    read_instant,
)
from offload.worker import DeadLetters, QueueCounts, State, StopReport, Worker

log = logging.getLogger("offload")
job_log = logging.getLogger("offload.job")

LOST_IN_A_LINE = 50
"""How many ids of lost jobs the log names in one line: a backlog can be long."""
CLOSE_SECONDS = 0.9
"""How long a stop may take beyond the grace, whatever handlers and backend do (LIFE-7)."""
DRIVER_SECONDS = 0.1
"""The part of it that is the driver's, whatever the subscription took."""
TAKING_TURNS = 500
"""How often a start tries to have a worker that others only perform with."""
TURN_SECONDS = 0.001
"""How often a loop that waits for its turn looks whether it has come."""

T = TypeVar("T")

vigil = Vigil()
alive: weakref.WeakSet[DriverWorker] = weakref.WeakSet()
"""The workers of this process, for what happens at its fork and at its end."""
left_to_the_parent: list[object] = []
"""What a forked child has inherited and must not touch."""


def _begin_again_in_child() -> None:
    vigil.begin_again_in_child()
    for worker in list(alive):
        worker.begin_again_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_again_in_child)


@atexit.register
def _name_what_is_lost() -> None:
    for worker in list(alive):
        worker.name_what_is_lost()


class DriverWorker(Worker):
    """What `connect` returns for an adapter that is a driver."""

    def __init__(
        self, driver: Driver, config: Config, make: Callable[[], Driver] | None = None
    ) -> None:
        """`make` makes another driver like this one, for other event loops and forked children."""
        self._driver = driver
        self._make = make
        self._config = config
        self._queues = config[QUEUES]
        longest_run = driver.longest_run if isinstance(driver, RunLimit) else None
        self._registry = Registry(config[MAX_ATTEMPTS], longest_run)
        self._observers = Observers()
        self._begin_life()
        alive.add(self)

    def _begin_life(self) -> None:
        """What belongs to one process and one event loop, as it is before the first call."""
        self.loop = None
        self._outbox = Outbox(self._driver.enqueue)
        self._elsewhere = Elsewhere(self._make) if self._make is not None else None
        self._binding = threading.Lock()
        self._users = 0
        self._taker: asyncio.AbstractEventLoop | None = None
        self._dispatcher: Dispatcher | None = None
        self._state = State.NEW
        self._is_open = False
        # The loop on which a perform needs no further look at our state: the quick way in.
        self._ready_on: asyncio.AbstractEventLoop | None = None
        self._starting = False
        self._draining: asyncio.Task[StopReport] | None = None
        self._lifecycle = asyncio.Lock()
        self._opening = Opening()

    def __repr__(self) -> str:
        return f"<offload worker {self._config} {self._state.value}>"

    @property
    def state(self) -> State:
        return self._state

    # -- life ----------------------------------------------------------------

    async def start(self) -> None:
        self._taker = asyncio.get_running_loop()
        try:
            for _ in range(TAKING_TURNS):  # a loop in its end runs and rests by turns
                await self._take_over()
                if self._is_at_work or await self._bind():
                    break
                await asyncio.sleep(TURN_SECONDS)
            await self._bind_here("start")
        finally:
            self._taker = None
        if self._starting or self._state in (State.RUNNING, State.STOPPING):
            raise AlreadyRunningError(f"{self!r} can't be started before it has stopped")
        self._starting = True
        try:
            was_open = self._is_open
            failed_before = self._opening.failures
            async with self._lifecycle:
                await self._open(failed_before)
                try:
                    self._dispatcher = await self._subscribe()
                except BaseException:
                    if not was_open:
                        self._is_open = False
                        self._ready_on = None
                        await self._driver.close()
                    raise
                self._state = State.RUNNING
                vigil.hold(self)
        finally:
            self._starting = False
        write(log.info, "worker started on %s", self._config)
        self._observers.tell("worker_started", worker=self)

    async def _subscribe(self) -> Dispatcher:
        with limits_told():
            subscription = await self._driver.subscribe(self._queues)
            try:
                return Dispatcher(
                    subscription,
                    self._registry,
                    self._observers,
                    self._config[CONCURRENCY],
                    self.limits.max_delay,
                )
            except BaseException:  # no thread was left for the leases
                await subscription.close()
                raise

    async def stop(self) -> StopReport:
        if self._state is State.STOPPED and not self._is_open:
            return StopReport()
        await self._bind_here("stop")
        self._ready_on = None
        if self._draining is None:
            self._draining = own_task(self._drain(), "offload-drain")
            if not self._starting:
                self._state = State.STOPPING
        if self._dispatcher is not None and self._dispatcher.runs_caller():
            return StopReport()
        return await asyncio.shield(self._draining)

    async def _drain(self) -> StopReport:
        finished = 0
        returned: Sequence[str] = ()
        lost: Sequence[str] = ()
        grace = self._config[GRACE].total_seconds()
        deadline = asyncio.get_running_loop().time() + grace + CLOSE_SECONDS
        try:
            async with self._lifecycle:
                self._state = State.STOPPING
                if self._dispatcher is not None:
                    if busy := self._dispatcher.busy_slots:
                        within = format_duration(self._config[GRACE])
                        write(log.warning, "draining: %d jobs, up to %s", busy, within)
                    finished, returned = await self._dispatcher.drain(grace, deadline - 0.2)
                lost = await self._disconnect(self._dispatcher, deadline)
                await self._leave_elsewhere(deadline)
        except asyncio.CancelledError:
            # A second stop finishes it; or the loop ends, and the vigil finds that.
            self._draining = None
            raise
        finally:
            if self._draining is not None:
                self._dispatcher = None
                self._draining = None
                self._state = State.STOPPED
                vigil.release(self)
        if self._outlives_us:
            report = StopReport(finished, tuple(returned))
        else:
            report = StopReport(finished, (), tuple(dict.fromkeys([*returned, *lost])))
        _name_lost(report.lost)
        write(
            log.info,
            "worker stopped: %d finished, %d returned, %d lost",
            *(report.finished, len(report.returned), len(report.lost)),
        )
        self._observers.tell("worker_stopped", worker=self, report=report)
        return report

    async def _disconnect(self, dispatcher: Dispatcher | None, deadline: float) -> Sequence[str]:
        try:
            async with asyncio.timeout_at(deadline - DRIVER_SECONDS):
                await self._outbox.idle()
                if dispatcher is not None:
                    await dispatcher.subscription.close()
        except Exception as error:
            _tell_of_close(error)
        try:
            async with asyncio.timeout_at(deadline):
                return await self._driver.close() if self._is_open else ()
        except Exception as error:
            _tell_of_close(error)
            return ()
        finally:
            self._is_open = False

    async def _disconnect_within(
        self, dispatcher: Dispatcher | None, seconds: float
    ) -> Sequence[str]:
        return await self._disconnect(dispatcher, asyncio.get_running_loop().time() + seconds)

    async def _leave_elsewhere(self, deadline: float) -> None:
        if self._elsewhere is not None:
            try:
                async with asyncio.timeout_at(deadline):
                    await self._elsewhere.close()
            except Exception as error:
                _tell_of_close(error)

    async def _open(self, failed_before: int) -> None:
        if not self._is_open:
            await self._opening.open(self._driver, failed_before)
            self._is_open = True
            if isinstance(self._driver, ClaimNotes):
                notes = {**self.claims.notes, **self._driver.claim_notes()}
                self.claims = replace(self.claims, notes=notes)

    @property
    def _outlives_us(self) -> bool:
        """Whether the jobs are where this process isn't needed for them to run."""
        return self.claims.durable or self.claims.distributed

    # -- which event loop, and which process -----------------------------------

    async def _bind(self, *, use: bool = False) -> bool:
        """Belong to the running loop from now on; False if another one has us, and may go on.

        With `use`, no other loop can have us until `_users` is less by one again.
        """
        loop = asyncio.get_running_loop()
        was_open, dispatcher = False, None
        with self._binding:
            former = self.loop
            if self._taker is not None and self._taker is not loop:
                return False  # it is about to start
            if former is not loop:
                if former is not None and not self._is_left(former):
                    return False
                self.loop = loop
                if former is not None:
                    was_open, dispatcher = self._forget_loop()
            self._users += use
        if was_open:
            async with self._lifecycle:
                self._is_open = True
                await self._disconnect_within(dispatcher, CLOSE_SECONDS)
        return True

    async def _take_over(self) -> None:
        """Before a start: leave a loop that runs elsewhere, and on which we only performed."""
        here = asyncio.get_running_loop()
        while True:
            with self._binding:
                former = self.loop
                if former is None or former is here or not former.is_running():
                    return
                if self._is_at_work or not self.claims.distributed:
                    return
                self._ready_on = None
                if not self._users:
                    self.loop, outbox = here, self._outbox
                    was_open, _ = self._forget_loop()
                    break
            await asyncio.sleep(TURN_SECONDS)
        if was_open:
            leaving = run_elsewhere(_leave(outbox, self._driver), former)
            try:
                await asyncio.wait_for(leaving, CLOSE_SECONDS)
            except Exception as error:
                _tell_of_close(error)

    @property
    def _is_at_work(self) -> bool:
        """Whether a worker runs, begins or drains on our loop."""
        return self._dispatcher is not None or self._starting or self._draining is not None

    def _is_left(self, former: asyncio.AbstractEventLoop) -> bool:
        """Whether nothing of ours goes on on a loop: then it is another one's turn."""
        if former.is_closed():
            return True
        if self._is_at_work or self._users:
            return False
        # What several processes share has a driver for each loop; what is in our memory has one.
        return not former.is_running() or self._elsewhere is None or not self.claims.distributed

    async def _bind_here(self, verb: str) -> None:
        """Belong to the running loop, or say why that can't be."""
        if await self._other_loop(verb) is not None:
            raise UsageError(
                f"{self!r} belongs to an event loop that runs in another thread: {verb} it there, "
                f"or by worker.sync.{verb}() from a thread without a loop"
            )

    async def _other_loop(self, verb: str) -> asyncio.AbstractEventLoop | None:
        """The loop that has us, while it runs; None if this one has got us instead."""
        for _ in range(LOOKS):
            if await self._bind():
                return None
            if self.loop is not None and self.loop.is_running():
                return self.loop
            await asyncio.sleep(LOOK_SECONDS)  # one that comes to its end is closed soon
        raise UsageError(
            f"{self!r} belongs to an event loop that doesn't run just now: run that one again and "
            f"{verb} it there, or close that loop"
        )

    def _forget_loop(self) -> tuple[bool, Dispatcher | None]:
        """Clear up after a loop that was closed without a stop, and took every task along."""
        self._lifecycle = asyncio.Lock()
        self._outbox = Outbox(self._driver.enqueue)
        self._draining = None
        self._starting = False
        self._ready_on = None
        self._users = 0
        was_open, self._is_open = self._is_open, False
        dispatcher, self._dispatcher = self._dispatcher, None
        if dispatcher is not None:
            line = "the event loop of %s was closed without a stop: it is stopped now"
            write(log.warning, line, repr(self))  # a record may be kept, and must not keep us
            dispatcher.abandon()
            vigil.release(self)
        if self._state is not State.NEW:
            self._state = State.STOPPED
        return was_open, dispatcher

    def leave_closed_loop(self) -> None:
        """Let go of what we hold, if our loop was closed without a stop. Called by the vigil."""
        if not self._binding.acquire(blocking=False):
            return  # another loop is about to have us; if it doesn't, the next look finds that
        try:
            if self.loop is None or not self.loop.is_closed():
                return
            self.loop = None
            self._is_open, dispatcher = self._forget_loop()
            lost = asyncio.run(self._disconnect_within(dispatcher, CLOSE_SECONDS))
            if not self._outlives_us:
                _name_lost(lost)
        except Exception as error:
            _tell_of_close(error)
        finally:
            self._binding.release()

    def begin_again_in_child(self) -> None:
        """In a forked child: what the parent has is left alone, and nothing is connected yet."""
        # Neither closed nor collected: sockets, and what watches them, are the parent's too.
        left_to_the_parent.append(dict(self.__dict__))
        if self._make is not None:
            self._driver = self._make()
        self._begin_life()

    def name_what_is_lost(self) -> None:
        """At the end of the process: a backend in its memory ends with it."""
        if self._outlives_us or not self._is_open:
            return
        try:
            lost = asyncio.run(_close(self._driver))
        except Exception as error:
            _tell_of_close(error)
            return
        if lost:
            never = "stopped" if self._state is State.RUNNING else "started"
            shown = ", ".join(lost[:LOST_IN_A_LINE])
            job_log.warning(
                f"%d jobs on %s are lost with this process, in which no worker was {never}: %s",
                *(len(lost), self._config, shown),
            )

    # -- performing ----------------------------------------------------------

    async def perform(self, job: Job) -> str:
        return await self._perform(job)

    async def perform_in(self, job: Job, delay: timedelta | float) -> str:
        return await self._perform(job, read_delay(delay, self.limits))

    async def perform_at(self, job: Job, when: datetime) -> str:
        return await self._perform(job, 0, read_instant(when, self.limits))

    async def perform_many(self, jobs: Iterable[Job]) -> list[str]:
        now_ms = time.time_ns() // 1_000_000
        jobs = list(jobs)
        entries = [self._make_one_of(jobs, index, now_ms) for index in range(len(jobs))]
        stored = 0
        for batch in batches(entries):
            try:
                await self._send(batch)
            except Exception as error:
                if not stored:
                    raise
                raise told_how_many(error, stored, len(entries)) from error
            if "job_enqueued" in self._observers.wanted:
                for job, entry in zip(jobs[stored:], batch, strict=False):
                    self._tell_enqueued(job, entry, now_ms)
            stored += len(batch)
        return [entry.id for entry in entries]

    def _make_one_of(self, jobs: Sequence[Job], index: int, now_ms: int) -> Entry:
        try:
            return self._make_entry(jobs[index], 0, None, now_ms)
        except UsageError as error:
            raise named(error, jobs, index) from None

    async def _perform(self, job: Job, delay_ms: int = 0, at_ms: int | None = None) -> str:
        now_ms = time.time_ns() // 1_000_000
        entry = self._make_entry(job, delay_ms, at_ms, now_ms)
        if self._ready_on is asyncio.get_running_loop():
            await self._outbox.send((entry,))
        else:
            await self._send((entry,))
        if "job_enqueued" in self._observers.wanted:
            self._tell_enqueued(job, entry, now_ms)
        return entry.id

    def _tell_enqueued(self, job: Job, entry: Entry, now_ms: int) -> None:
        due_ms = now_ms + entry.delay_ms if entry.at_ms is None else entry.at_ms
        context = JobContext(entry.id, entry.queue, job.handler, 0, now_ms, due_ms)
        self._observers.tell("job_enqueued", job=context)

    async def _send(self, entries: Sequence[Entry]) -> None:
        """Hand entries to the backend, from whatever loop."""
        self._refuse_if_stopped()
        if self.claims.distributed and self._elsewhere is not None:
            if await self._bind(use=True):
                await self._send_here(entries)
            else:
                await self._elsewhere.enqueue(entries)
            return
        # What lives in our memory has one driver, which a loop uses after the other, or whose
        # loop it is once the worker has been started.
        while not await self._bind(use=True):
            if self._dispatcher is not None:
                await self._send_to_its_loop(entries)
                return
            await asyncio.sleep(TURN_SECONDS)
        await self._send_here(entries)

    async def _send_here(self, entries: Sequence[Entry]) -> None:
        try:
            if not self._is_open:
                failed_before = self._opening.failures
                async with self._lifecycle:
                    self._refuse_if_stopped()
                    await self._open(failed_before)
                self._refuse_if_stopped()
            if self._dispatcher is not None or self.claims.distributed:
                self._ready_on = self.loop
            await self._outbox.send(entries)
        finally:
            with self._binding:
                self._users = max(0, self._users - 1)

    async def _send_to_its_loop(self, entries: Sequence[Entry]) -> None:
        loop = await self._other_loop("perform")
        if loop is None:
            await self._send(entries)
            return
        await run_elsewhere(self._outbox.send(entries), loop)

    def _refuse_if_stopped(self) -> None:
        if self._draining is not None or self._state in (State.STOPPING, State.STOPPED):
            raise WorkerStoppedError(
                f"{self!r} performs no more: stop() was called, or its event loop has ended"
            )

    def _make_entry(self, job: Job, delay_ms: int, at_ms: int | None, now_ms: int) -> Entry:
        if not isinstance(job, Job):
            raise InvalidJobError(f"a Job is performed, not {type(job).__name__}")
        handler, queue = job.handler, job.queue
        # A name that is known here is a good one.
        if not isinstance(handler, str) or not self._registry.has(handler):
            self._check_handler(handler)
        if queue not in self._queues:
            self._check_queue(queue)
        args = capture_args(job.args, self.limits)
        job_id = new_job_id(now_ms)
        return Entry(job_id, queue, encode(job_id, handler, now_ms, args), delay_ms, at_ms)

    def _check_handler(self, handler: Any) -> None:
        check_handler_name(handler)
        if not self.claims.distributed:
            known = ", ".join(sorted(self._registry)) or "none"
            raise UnknownHandlerError(f"handler {handler!r} is not registered; registered: {known}")

    def _check_queue(self, queue: Any) -> None:
        check_queue_name(queue)
        if not self.claims.distributed:
            raise UnknownQueueError(
                f"queue {queue!r} is not consumed by this worker, and no other process could; "
                f"its queues: {', '.join(self._queues)}"
            )

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
        return await self._look(_count)

    @property
    def dead_letters(self) -> DeadLetters:
        if not self.claims.dead_letters or not isinstance(self._driver, DeadLetterStore):
            return super().dead_letters
        return StoredDeadLetters(self._look)

    async def _look(self, action: Callable[[Any], Awaitable[T]]) -> T:
        """Let `action` look at the backend, from whatever loop, and also after stop."""
        if await self._bind():
            failed_before = self._opening.failures
            async with self._lifecycle:
                await self._open(failed_before)
            return await action(self._driver)
        if self.claims.distributed and self._elsewhere is not None:
            return await self._elsewhere.use(action)
        loop = await self._other_loop("look at")
        if loop is None:
            return await self._look(action)
        return await run_elsewhere(self._look(action), loop)


async def _leave(outbox: Outbox, driver: Driver) -> None:
    await outbox.idle()
    await driver.close()


async def _close(driver: Driver) -> Sequence[str]:
    return await driver.close()


async def _count(driver: Counts) -> Mapping[str, QueueCounts]:
    return await driver.counts()


def _name_lost(lost: Sequence[str]) -> None:
    for begin in range(0, len(lost), LOST_IN_A_LINE):
        ids = lost[begin : begin + LOST_IN_A_LINE]
        write(job_log.warning, "lost unless this worker starts again: %s", ", ".join(ids))


def _tell_of_close(error: Exception) -> None:
    if isinstance(error, (TimeoutError, BackendError)):
        write(log.warning, "the backend didn't answer while the worker disconnected: %r", error)
    else:
        write(log.error, "the driver failed to close", error=error)
