"""PERF: slips in performing."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import time
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from offload import (
    BackendUnavailableError,
    Entry,
    InvalidJobError,
    Job,
    JobContext,
    State,
    UnknownHandlerError,
    UsageError,
)
from offload.config import Config
from offload.engine import DriverWorker
from offload.job import new_job_id, running_job
from offload.validation import check_job
from offload_mutants.registry import BASES, mutant
from offload_mutants.wrapper import Wrapper
from offload_simple.driver import SimpleDriver
from offload_simple.subscription import SimpleSubscription
from offload_sqlite.driver import SqliteDriver


@mutant("PERF-1", "DUR-1", base="sqlite")
class StoresAfterItHasReturned(SqliteDriver):
    """Collects what is performed within 30 ms into one transaction, and doesn't let them wait."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._storing: set[asyncio.Task[None]] = set()

    async def enqueue(self, entries: Sequence[Entry]) -> None:
        if any(entry.delay_ms or entry.at_ms for entry in entries):
            await super().enqueue(entries)
            return
        task = asyncio.create_task(self._store_soon(entries))
        self._storing.add(task)
        task.add_done_callback(self._storing.discard)

    async def _store_soon(self, entries: Sequence[Entry]) -> None:
        await asyncio.sleep(0.03)
        await super().enqueue(entries)

    async def close(self) -> Sequence[str]:
        await asyncio.gather(*self._storing)
        return await super().close()


class CountsItsJobs(DriverWorker):
    """Gives ids of its own."""

    base = "sqlite"

    def __init__(self, config: Config) -> None:
        adapter = BASES[self.base]
        super().__init__(adapter.make(config), config, adapter.claims, adapter.limits)
        self._ids = itertools.count(1)
        self._batched = True

    def _make_entry(self, *args: Any) -> Entry:
        entry = super()._make_entry(*args)
        return (
            msgspec.structs.replace(entry, id=f"job-{next(self._ids)}") if self._batched else entry
        )


@mutant("PERF-1", "QUE-2", "DUR-1", "DIST-1", "DIST-2", "DIST-5", base="sqlite")
class TwoWorkersGiveTheSameIds(CountsItsJobs):
    """Counts the jobs of each worker, as if there were no other."""


@mutant("PERF-1")
class NumbersItsBatchesAnewInEachLife(CountsItsJobs):
    """Resets the counter of its batches together with the rest of its state."""

    base = "simple"

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._batched = False

    async def perform_many(self, jobs: Iterable[Job]) -> list[str]:
        self._batched = True
        try:
            return await super().perform_many(jobs)
        finally:
            self._batched = False

    async def stop(self) -> Any:
        self._ids = itertools.count(1)
        return await super().stop()


@mutant("PERF-2")
class SendsTheLastOfManyTwice(Wrapper):
    """Sends batches of 25, and begins each with the job that ended the one before."""

    async def perform_many(self, jobs: Iterable[Job]) -> list[str]:
        jobs = list(jobs)
        ids = await super().perform_many(jobs)
        for job in jobs[25::25]:
            await super().perform(job)
        return ids


class KnowsItsHandlers(Wrapper):
    """Can call a handler by itself."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.handlers: dict[str, Any] = {}

    def register(self, name: str, handler: Any, **options: Any) -> None:
        super().register(name, handler, **options)
        self.handlers[name] = handler

    async def run_here(self, job: Job) -> str:
        job_id = new_job_id(time.time_ns() // 1_000_000)
        token = running_job.set(JobContext(job_id, job.queue, job.handler, 1, 0, 0))
        try:
            result = self.handlers[job.handler](job.args)
            if inspect.isawaitable(result):
                await result
        finally:
            running_job.reset(token)
        return job_id


@mutant("PERF-3")
class RunsInlineWhatAHandlerPerforms(KnowsItsHandlers):
    """Spares the way over the queue to jobs that are performed by a job."""

    async def perform(self, job: Job) -> str:
        if running_job.get(None) is None or self.state is not State.RUNNING:
            return await super().perform(job)
        return await self.run_here(job)


@mutant("PERF-3", "PERF-5", "QUE-1")
class RunsInlineBeforeStart(KnowsItsHandlers):
    """Is eager: as long as no worker was started, it runs the job itself."""

    async def perform(self, job: Job) -> str:
        check_job(job, self.limits)
        if self.state is State.NEW and job.handler in self.handlers:
            return await self.run_here(job)
        return await super().perform(job)


@mutant("PERF-4", "ARGS-4")
class TakesNoArgsForEmptyOnes(Wrapper):
    """Says `job.args or {}`."""

    async def perform(self, job: Job) -> str:
        if isinstance(job, Job) and job.args is None:
            job = Job(job.handler, {}, job.queue)
        return await super().perform(job)


@mutant("PERF-4", "ARGS-4")
class StoresBeforeItChecks(Wrapper):
    """Validates the args where they are read back."""

    async def perform(self, job: Job) -> str:
        try:
            return await super().perform(job)
        except InvalidJobError:
            if isinstance(job, Job) and not isinstance(job.args, dict):
                await super().perform(Job(job.handler, {}, job.queue))
            raise


@mutant("PERF-5", "CONC-1", "CONC-3")
class ForgetsABatchFromBeforeStart(SimpleDriver):
    """Keeps a batch until a consumer is there, and then doesn't send it."""

    async def enqueue(self, entries: Sequence[Entry]) -> None:
        if self._subscription is not None or len(entries) == 1:
            await super().enqueue(entries)


@mutant("PERF-5", "FIFO-2", "CONC-1", "CONC-2", "CONC-3")
class BeginsWithAnEmptyQueue(SimpleDriver):
    """Takes what it finds when it starts for the rest of a run that went wrong."""

    async def subscribe(self, queues: Sequence[str]) -> SimpleSubscription:
        if self._subscription is None:
            self._memory.ready.clear()
        return await super().subscribe(queues)


@mutant("PERF-5")
class ForgetsWhatIsLaterBeforeStart(SimpleDriver):
    """Has a timer of its consumer for what is due later, and no consumer before it starts."""

    async def enqueue(self, entries: Sequence[Entry]) -> None:
        if self._subscription is None:
            entries = [each for each in entries if not each.delay_ms and each.at_ms is None]
        await super().enqueue(entries)


@mutant("PERF-5", "TIME-9", "FIFO-2")
class KeepsTheLastHundred(SimpleDriver):
    """`deque(maxlen=100)` for what comes before its start, in case that never comes."""

    async def enqueue(self, entries: Sequence[Entry]) -> None:
        await super().enqueue(entries)
        if self._subscription is None:
            for jobs in self._memory.ready.values():
                while len(jobs) > 100:
                    jobs.popleft()


@mutant("PERF-6", "FAIL-7")
class SwallowsWhatNobodyHandles(Wrapper):
    """Takes any job, and drops those that it has no handler for."""

    async def perform(self, job: Job) -> str:
        try:
            return await super().perform(job)
        except UnknownHandlerError:
            return new_job_id(time.time_ns() // 1_000_000)


@mutant("PERF-6", "DIST-2", base="sqlite")
class RefusesTheHandlersOfOthers(Wrapper):
    """Wants each handler to be registered where its jobs are performed."""

    base = "sqlite"

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._names: set[str] = set()

    def register(self, name: str, handler: Any, **options: Any) -> None:
        super().register(name, handler, **options)
        self._names.add(name)

    async def perform(self, job: Job) -> str:
        if isinstance(job, Job) and job.handler in self._names:
            return await super().perform(job)
        check_job(job, self.limits)
        raise UnknownHandlerError(f"handler {job.handler!r} is not registered here")


@mutant("PERF-7", "PERF-3")
class RefusesPerformsFromHandlers(Wrapper):
    """Guards itself against being called by itself."""

    async def perform(self, job: Job) -> str:
        if running_job.get(None) is not None:
            raise UsageError("perform can't be called from a handler")
        return await super().perform(job)


@mutant("PERF-7", "TIME-9")
class RunsOutOfConnections(Wrapper):
    """Has a pool of 500 connections, and no patience."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._free = 500

    async def perform(self, job: Job) -> str:
        if not self._free:
            raise BackendUnavailableError("no connection is free")
        self._free -= 1
        try:
            answer = await super().perform(job)
            await asyncio.sleep(0)
            return answer
        finally:
            self._free += 1


class _LooksNowAndThen(SimpleSubscription):
    async def wait(self, timeout: float) -> None:
        await asyncio.sleep(min(timeout, 0.3))


@mutant("PERF-9", "TIME-2", "TIME-3")
class IsNeverWoken(SimpleDriver):
    """Looks for work three times a second, and calls that fast."""

    async def subscribe(self, queues: Sequence[str]) -> SimpleSubscription:
        self._subscription = _LooksNowAndThen(self._memory, queues)
        return self._subscription


@mutant("PERF-9", "TIME-2", "TIME-3")
class IsWokenEverySecondTime(SimpleDriver):
    """Takes the flag that it has woken the worker down only when that has waited to the end."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._is_told = False

    def _wake(self) -> None:
        self._is_told = not self._is_told
        if self._is_told:
            super()._wake()
