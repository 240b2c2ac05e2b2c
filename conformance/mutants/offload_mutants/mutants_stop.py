"""LIFE: slips in what is unfinished, and in stops at odd moments."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from offload import (
    AlreadyRunningError,
    Args,
    Settlement,
    State,
    StopReport,
    Verdict,
)
from offload.config import CONCURRENCY, GRACE, Config, read_config
from offload.job import running_job
from offload_mutants.mutants_life import SeesItsRuns
from offload_mutants.mutants_reg import HasATable
from offload_mutants.registry import mutant
from offload_mutants.wrapper import Wrapper
from offload_simple.driver import SimpleDriver
from offload_simple.memory import StoredJob
from offload_simple.subscription import SimpleSubscription


@mutant("LIFE-7")
class WaitsForTheStubborn(SeesItsRuns):
    """Waits until each handler that it has cancelled has ended."""

    async def stop(self) -> StopReport:
        report = await super().stop()
        if asyncio.current_task() not in self.tasks:
            await self.until_running_at_most(0)
        return report


class CountsAStop(SimpleSubscription):
    """Leaves the attempt of what is given back as it is."""

    def _keep(self, job: StoredJob, settlement: Settlement) -> None:
        super()._keep(job, settlement)
        if settlement.verdict is Verdict.RELEASE:
            job.attempt += 1


@mutant("LIFE-7", "LIFE-13", "CONC-4")
class CountsTheAttemptThatAStopCutShort(SimpleDriver):
    """Takes a job that it gives back for one that has failed."""

    async def subscribe(self, queues: Sequence[str]) -> SimpleSubscription:
        self._subscription = CountsAStop(self._memory, queues)
        return self._subscription


@mutant("LIFE-7")
class GivesNoGraceBelowASecond(Wrapper):
    """Has its grace in whole seconds."""

    def __init__(self, config: Config) -> None:
        seconds = config[GRACE] // timedelta(seconds=1)
        query = {**config.address.query, "grace": f"{seconds}s"}
        super().__init__(read_config(replace(config.address, query=query), ()))


@mutant("LIFE-7")
class HasAGraceForEachSlot(Wrapper):
    """Drains one slot after the other, and gives each the whole grace."""

    def __init__(self, config: Config) -> None:
        milliseconds = config[CONCURRENCY] * (config[GRACE] // timedelta(milliseconds=1))
        query = {**config.address.query, "grace": f"{milliseconds}ms"}
        super().__init__(read_config(replace(config.address, query=query), ()))


@mutant("LIFE-8", "LIFE-11", "LIFE-12")
class ASecondStopReturnsAtOnce(Wrapper):
    """Takes a second stop for a wish that is being fulfilled already."""

    async def stop(self) -> StopReport:
        if self.state is State.STOPPING:
            return StopReport()
        return await super().stop()


@mutant("LIFE-8", "LIFE-12")
class ASecondStopIsImpatient(SeesItsRuns):
    """Cancels what still runs when stop is called once more, as a second ^C does."""

    async def stop(self) -> StopReport:
        if self.state is State.STOPPING:
            for task in self.tasks:
                task.cancel()
        return await super().stop()


@mutant("LIFE-8", "LIFE-10")
class StopBeforeStartFails(Wrapper):
    """Has no consumer to stop before it was started."""

    async def stop(self) -> StopReport:
        if self.state is State.NEW:
            raise AttributeError("'NoneType' object has no attribute 'cancel'")
        return await super().stop()


@mutant("LIFE-9", "PERF-2")
class ForgetsTheScheduledAtStop(SimpleDriver):
    """Cancels its timers when it closes."""

    async def close(self) -> Sequence[str]:
        lost = await super().close()
        self._memory.scheduled.clear()
        return lost


@mutant("LIFE-9")
class ForgetsLateHandlersAtStop(HasATable):
    """Hands handlers that come late to its consumer alone, which ends with a stop."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._late: set[str] = set()

    def register(self, name: str, handler: Any, **options: Any) -> None:
        super().register(name, handler, **options)
        if self.state is State.RUNNING:
            self._late.add(name)

    async def stop(self) -> StopReport:
        report = await super().stop()
        while self._late:
            del self.table[self._late.pop()]
        return report


@mutant("LIFE-10")
class StopLeavesThePerformersConnection(SimpleDriver):
    """Connects to perform, and lets its consumer take that over; stopped without, it stays."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._file: int | None = None

    async def enqueue(self, entries: Sequence[Any]) -> None:
        if self._file is None and self._subscription is None:
            self._file = os.open(os.devnull, os.O_RDONLY)
        await super().enqueue(entries)

    async def subscribe(self, queues: Sequence[str]) -> SimpleSubscription:
        if self._file is not None:
            os.close(self._file)
            self._file = None
        return await super().subscribe(queues)


@mutant("LIFE-10")
class LeavesATaskForAnHour(SimpleDriver):
    """Waits in a task for what is due later today, whatever happens until then."""

    async def enqueue(self, entries: Sequence[Any]) -> None:
        await super().enqueue(entries)
        for entry in entries:
            if 3_600_000 < entry.delay_ms < 86_400_000:
                self._alarm = asyncio.create_task(asyncio.sleep(entry.delay_ms / 1000))


@mutant("LIFE-11")
class StopInAHandlerWaitsForItself(Wrapper):
    """Waits for all handlers, that which has called it included."""

    async def stop(self) -> StopReport:
        stopping = asyncio.create_task(super().stop(), context=contextvars.Context())
        return await asyncio.shield(stopping)


@mutant("LIFE-11")
class StopInAHandlerIsOnlyNoted(Wrapper):
    """Answers a handler that it will stop, and leaves the rest to a stop from outside."""

    async def stop(self) -> StopReport:
        if running_job.get(None) is not None and self.state is State.RUNNING:
            return StopReport()
        return await super().stop()


@mutant("LIFE-11")
class StopInAHandlerCountsTheHandler(SeesItsRuns):
    """Reports the handlers that run to one of them, as if they had finished."""

    async def stop(self) -> StopReport:
        report = await super().stop()
        inside = running_job.get(None) is not None
        return replace(report, finished=self.running) if inside else report


_in_a_thread: contextvars.ContextVar[bool] = contextvars.ContextVar("in_a_thread", default=False)


@mutant("LIFE-11")
class StopInADefHandlerWaitsForItself(Wrapper):
    """Knows a handler that calls it by its task, which one that runs in a thread hasn't."""

    def change_handler(self, name: str, handler: Any) -> Any:
        def call_it(args: Args) -> None:
            _in_a_thread.set(True)
            handler(args)

        is_plain = callable(handler) and not inspect.iscoroutinefunction(handler)
        return call_it if is_plain else handler

    async def stop(self) -> StopReport:
        if not _in_a_thread.get():
            return await super().stop()
        stopping = asyncio.create_task(super().stop(), context=contextvars.Context())
        return await asyncio.shield(stopping)


@mutant("LIFE-12")
class ACancelledStartStaysStarting(Wrapper):
    """Sets a flag while it starts, and clears it when that went well or badly, but not else."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._starting = False

    async def start(self) -> None:
        if self._starting:
            raise AlreadyRunningError("it is being started")
        self._starting = True
        try:
            await asyncio.sleep(0)
            await super().start()
        except Exception:
            self._starting = False
            raise
        self._starting = False


@mutant("LIFE-12")
class ACancelledStopIsTakenForDone(Wrapper):
    """Notes that it was stopped, in a `finally`."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._cancelled = False

    async def stop(self) -> StopReport:
        if self._cancelled and self.state is State.STOPPING:
            return StopReport()
        try:
            return await super().stop()
        except asyncio.CancelledError:
            self._cancelled = True
            raise


@mutant("LIFE-12")
class AStopCanNotBeCancelled(Wrapper):
    """Swallows the cancellation, so that nothing is interrupted."""

    async def stop(self) -> StopReport:
        stopping = asyncio.create_task(super().stop())
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(stopping)
        return await stopping


@mutant("LIFE-13")
class ReportsOnlyWhatWaits(SimpleDriver):
    """Forgets the scheduled jobs in its report."""

    async def close(self) -> Sequence[str]:
        scheduled = {job.id for _, _, job in self._memory.scheduled}
        return [job_id for job_id in await super().close() if job_id not in scheduled]


@mutant("LIFE-13")
class LosesInSilence(Wrapper):
    """Leaves it to the caller to look at the report."""

    async def stop(self) -> StopReport:
        log = logging.getLogger("offload.job")
        log.addFilter(self._is_no_loss)
        try:
            return await super().stop()
        finally:
            log.removeFilter(self._is_no_loss)

    @staticmethod
    def _is_no_loss(record: logging.LogRecord) -> bool:
        return "lost unless" not in record.getMessage()


@mutant("LIFE-13")
class CountsTheJobsOfItsWholeLife(SeesItsRuns):
    """Reports what has finished since start, not since stop."""

    async def stop(self) -> StopReport:
        report = await super().stop()
        return replace(report, finished=max(report.finished, self.ended))
