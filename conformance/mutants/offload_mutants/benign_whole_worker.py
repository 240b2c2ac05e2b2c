"""A whole `Worker` without the engine.

It claims nothing that it need not, and must pass all the rest: so it is shown that no rule
describes our engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import heapq
import inspect
import itertools
import json
import logging
import threading
import time
from collections import Counter
from datetime import datetime, timedelta
from itertools import chain
from typing import Any

from offload import (
    AlreadyRunningError,
    Backoff,
    Claims,
    DuplicateHandlerError,
    Handler,
    Job,
    JobContext,
    Limits,
    Reject,
    Retry,
    State,
    StopReport,
    UnknownHandlerError,
    UnknownQueueError,
    Worker,
    WorkerStoppedError,
    exponential,
)
from offload.config import CONCURRENCY, GRACE, MAX_ATTEMPTS, QUEUES, Config
from offload.job import new_job_id, running_job
from offload.validation import check_handler_name, check_job, read_delay, read_instant
from offload_mutants.registry import benign

log = logging.getLogger("offload")


class Stored:
    """A job in memory."""

    def __init__(self, job: Job, args: bytes, due_ms: int) -> None:
        self.enqueued_ms = time.time_ns() // 1_000_000
        self.id, self.job, self.args = new_job_id(self.enqueued_ms), job, args
        self.due_ms, self.attempt = due_ms, 0


@benign(
    "CONF",
    "LIFE",
    "PERF",
    "FAIL",
    "CONC",
    claims=Claims(fifo=False, durable=False, distributed=False, dead_letters=False),
    limits=Limits(
        max_job_bytes=100_000,
        max_delay=timedelta(days=30),
        lateness=timedelta(milliseconds=50),
    ),
)
class WholeWorker(Worker):
    """Implements `Worker` without the engine: a heap of jobs by due time for each queue."""

    def __init__(self, config: Config) -> None:
        self._queues, self._concurrency = config[QUEUES], config[CONCURRENCY]
        self._max_attempts, self._grace = config[MAX_ATTEMPTS], config[GRACE].total_seconds()
        self._handlers: dict[str, tuple[Handler, int, Backoff, float | None]] = {}
        self._heaps: dict[str, list[tuple[int, int, Stored]]] = {q: [] for q in self._queues}
        self._order = itertools.count()
        self._turns = Counter[str]()
        self._running: dict[asyncio.Task[None], Stored | None] = {}
        """Those who have a slot, each with its job until there is a verdict on that."""
        self._left: set[asyncio.Task[None]] = set()
        """Those that a stop has given up; each has its slot until it ends."""
        self._state = State.NEW
        self._changed = asyncio.Event()
        self._finished = 0
        self._drain: asyncio.Task[StopReport] | None = None

    @property
    def state(self) -> State:
        return self._state

    def register(
        self,
        name: str,
        handler: Handler,
        *,
        max_attempts: int | None = None,
        backoff: Backoff | None = None,
        timeout: timedelta | float | None = None,
    ) -> None:
        check_handler_name(name)
        if not callable(handler):
            raise TypeError(f"{handler!r} is not callable")
        if name in self._handlers:
            raise DuplicateHandlerError(name)
        seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
        self._handlers[name] = (
            handler,
            max_attempts or self._max_attempts,
            backoff or exponential(),
            seconds,
        )

    # -- performing ------------------------------------------------------------

    async def perform(self, job: Job) -> str:
        return self._add(job, time.time_ns() // 1_000_000)

    async def perform_in(self, job: Job, delay: timedelta | float) -> str:
        wait = read_delay(delay, self.limits)
        return self._add(job, time.time_ns() // 1_000_000 + wait + (wait > 0))

    async def perform_at(self, job: Job, when: datetime) -> str:
        return self._add(job, read_instant(when, self.limits))

    def _add(self, job: Job, due_ms: int) -> str:
        self.loop = asyncio.get_running_loop()
        args = check_job(job, self.limits)
        if self._state in (State.STOPPING, State.STOPPED):
            raise WorkerStoppedError("stop was called")
        if job.handler not in self._handlers:
            raise UnknownHandlerError(job.handler)
        if job.queue not in self._queues:
            raise UnknownQueueError(job.queue)
        stored = Stored(job, args, due_ms)
        self._push(stored)
        return stored.id

    def _push(self, stored: Stored) -> None:
        entry = (stored.due_ms, next(self._order), stored)
        heapq.heappush(self._heaps[stored.job.queue], entry)
        self._changed.set()

    # -- life ------------------------------------------------------------------

    async def start(self) -> None:
        if self._state in (State.RUNNING, State.STOPPING):
            raise AlreadyRunningError("it runs")
        self.loop = asyncio.get_running_loop()
        self._state = State.RUNNING
        self._loop_task = asyncio.create_task(self._work(), name="whole-worker")

    async def stop(self) -> StopReport:
        if self._state in (State.NEW, State.STOPPED):
            self._state = State.STOPPED
            return self._report_lost()
        self._state = State.STOPPING
        if self._drain is None:
            self._drain = asyncio.create_task(self._stop())
        if running_job.get(None) is not None:
            return StopReport()
        return await asyncio.shield(self._drain)

    async def _stop(self) -> StopReport:
        self._loop_task.cancel()
        before = self._finished
        if self._running:
            await asyncio.wait(self._running, timeout=self._grace)
        finished = self._finished - before
        for task in list(self._running):
            task.cancel()
        if self._running:
            await asyncio.wait(self._running, timeout=0.3)
        for task, stored in self._running.items():
            if stored is not None:
                self._give_back(stored)
            self._left.add(task)
            task.add_done_callback(self._ended)
        self._running = {}
        self._state, self._drain = State.STOPPED, None
        return StopReport(finished, (), self._report_lost().lost)

    def _give_back(self, stored: Stored) -> None:
        stored.attempt -= 1
        self._push(stored)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._left.discard(task)
        self._changed.set()

    def _report_lost(self) -> StopReport:
        lost = tuple(stored.id for _, _, stored in sorted(chain(*self._heaps.values())))
        for job_id in lost:
            log.warning("job %s is lost unless this worker starts again", job_id)
        return StopReport(lost=lost)

    # -- running ---------------------------------------------------------------

    async def _work(self) -> None:
        while True:
            self._changed.clear()
            now_ms = time.time_ns() // 1_000_000
            while self._has_slot() and (stored := self._next(now_ms)):
                task = asyncio.create_task(self._run(stored), context=contextvars.Context())
                self._running[task] = stored
            next_ms = min((heap[0][0] for heap in self._heaps.values() if heap), default=None)
            wait = 1.0 if next_ms is None else max(0.0005, (next_ms - now_ms) / 1000)
            try:
                async with asyncio.timeout(wait if self._has_slot() else None):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def _has_slot(self) -> bool:
        return len(self._running) + len(self._left) < self._concurrency

    def _next(self, now_ms: int) -> Stored | None:
        """The first that is due, of the queue that has the fewest jobs running.

        Of several such it is the one whose last turn is the longest ago.
        """
        due = [queue for queue, heap in self._heaps.items() if heap and heap[0][0] <= now_ms]
        if not due:
            return None
        busy = Counter(stored.job.queue for stored in self._running.values() if stored)
        queue = min(due, key=lambda queue: (busy[queue], self._turns[queue]))
        self._turns[queue] = next(self._order)
        return heapq.heappop(self._heaps[queue])[2]

    async def _run(self, stored: Stored) -> None:
        handler, _, _, timeout = self._handlers[stored.job.handler]
        stored.attempt += 1
        job = stored.job
        running_job.set(
            JobContext(
                stored.id, job.queue, job.handler, stored.attempt, stored.enqueued_ms, stored.due_ms
            )
        )
        task: Any = asyncio.current_task()
        call = asyncio.create_task(_outcome(handler, json.loads(stored.args)))
        try:
            await asyncio.wait([call], timeout=timeout)
        except asyncio.CancelledError:  # by a stop
            call.cancel()
            await asyncio.wait([call])
        if not call.done():
            call.cancel()
            self._running[task] = None
            self._settle(stored, TimeoutError("the handler took too long"))
            await _end_of(call)
        if self._running.get(task) is not None:
            error = call.result()
            is_cut_short = task.cancelling() and isinstance(error, asyncio.CancelledError)
            if is_cut_short or isinstance(error, WorkerStoppedError):
                self._give_back(stored)
            else:
                self._settle(stored, error)
        self._running.pop(task, None)
        self._changed.set()

    def _settle(self, stored: Stored, error: BaseException | None) -> None:
        _, max_attempts, _, _ = self._handlers[stored.job.handler]
        self._finished += 1
        if error is None:
            return
        if isinstance(error, Reject) or stored.attempt >= max_attempts:
            log.error("job %s is dead: %s", stored.id, type(error).__name__)
            return
        wait = min(self._wait(stored, error), self.limits.max_delay)
        stored.due_ms = time.time_ns() // 1_000_000 + wait // timedelta(milliseconds=1) + 1
        self._push(stored)

    def _wait(self, stored: Stored, error: BaseException) -> timedelta:
        if isinstance(error, Retry) and error.after is not None:
            return error.after
        _, _, backoff, _ = self._handlers[stored.job.handler]
        return backoff(stored.attempt)


async def _outcome(handler: Handler, args: Any) -> BaseException | None:
    """What the handler has raised, if it has."""
    try:
        if inspect.iscoroutinefunction(handler):
            await handler(args)
        else:
            await _in_a_thread(handler, args)
    except BaseException as error:
        return error
    return None


async def _end_of(awaited: asyncio.Future[Any]) -> None:
    """Wait for it, whoever cancels that."""
    while not awaited.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([awaited])


async def _in_a_thread(handler: Handler, args: Any) -> None:
    """One thread for one job: nothing is left when it has ended."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[BaseException | None] = loop.create_future()
    context = contextvars.copy_context()

    def call() -> None:
        error: BaseException | None = None
        try:
            context.run(handler, args)
        except BaseException as raised:
            error = raised
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(lambda: ended.done() or ended.set_result(error))

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    await _end_of(ended)
    thread.join()
    if error := ended.result():
        raise error
