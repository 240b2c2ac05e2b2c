"""Slips in what the engine does for a driver: of a `Worker` that is implemented whole."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from offload import (
    Args,
    Retry,
    Settlement,
    State,
    StopReport,
    Verdict,
    WorkerStoppedError,
    current_job,
)
from offload.config import Config
from offload_mutants.benign_whole_worker import Stored, WholeWorker
from offload_mutants.drivers import Handles, Settles
from offload_mutants.registry import VARIANTS, Make, mutant
from offload_mutants.wrapper import Wrapper
from offload_simple.driver import SimpleDriver

_WHOLE = VARIANTS["WholeWorker"].adapter


def mutant_of_a_whole(breaks: str, *also: str) -> Callable[[Make], Make]:
    """Register a broken worker that claims as little as the right one."""
    return mutant(breaks, *also, claims=_WHOLE.claims, limits=_WHOLE.limits)


# -- slots -----------------------------------------------------------------------


@mutant_of_a_whole("CONC-1")
class FreesTheSlotAtATimeout(WholeWorker):
    """Takes a run for over when its verdict is out, though its thread goes on."""

    def _has_slot(self) -> bool:
        running = sum(stored is not None for stored in self._running.values())
        return running + len(self._left) < self._concurrency


@mutant_of_a_whole("CONC-2", "CONC-1", "LIFE-6")
class LeaksTheSlotOfATimeout(WholeWorker):
    """Frees a slot where it settles a job that has ended, which one that took too long hasn't."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._too_slow: set[Stored] = set()

    async def _run(self, stored: Stored) -> None:
        await super()._run(stored)
        task = asyncio.current_task()
        if task and stored in self._too_slow:
            self._left.add(task)

    def _settle(self, stored: Stored, error: BaseException | None) -> None:
        super()._settle(stored, error)
        if isinstance(error, TimeoutError):
            self._too_slow.add(stored)


# -- a stop ----------------------------------------------------------------------


@mutant_of_a_whole("LIFE-6")
class WaitsForVerdictsOnly(WholeWorker):
    """Returns from stop when there is a verdict on each job, though a handler runs on."""

    async def _stop(self) -> StopReport:
        for task, stored in list(self._running.items()):
            if stored is None:
                del self._running[task]
        return await super()._stop()


@mutant("LIFE-7")
class CountsWhatMayNotPerform(Handles):
    """Takes a handler that fails since it may not perform during a drain for one that fails."""

    async def handle(self, handler: Any, args: Args) -> None:
        try:
            await handler(args)
        except WorkerStoppedError:
            raise RuntimeError("the handler failed") from None


@mutant_of_a_whole("LIFE-7")
class CountsHowEndedWhatItLeft(WholeWorker):
    """Lets a handler that a stop has left settle its job in the end, which waits by then."""

    async def _stop(self) -> StopReport:
        running = self._running
        report = await super()._stop()
        self._running = dict(running)
        return report


@mutant_of_a_whole("LIFE-13")
class ForgetsWhatIsBetweenTwoAttempts(WholeWorker):
    """Reports as lost what has never run, and what it has cancelled."""

    def _report_lost(self) -> StopReport:
        heaps = self._heaps
        self._heaps = {q: [e for e in heap if not e[2].attempt] for q, heap in heaps.items()}
        report = super()._report_lost()
        self._heaps = heaps
        return report


@mutant("LIFE-13")
class HasNothingToReportBeforeItsStart(Wrapper):
    """Takes a worker that was never started for one that has no jobs."""

    async def stop(self) -> StopReport:
        is_new = self.state is State.NEW
        report = await super().stop()
        return replace(report, lost=()) if is_new else report


# -- failures --------------------------------------------------------------------


@mutant_of_a_whole("FAIL-2", "FAIL-9", "FAIL-5")
class BeginsTheBackoffOverAtATimeout(WholeWorker):
    """Has a way of its own for timeouts, which waits as after the first attempt."""

    def _wait(self, stored: Stored, error: BaseException) -> timedelta:
        if not isinstance(error, TimeoutError):
            return super()._wait(stored, error)
        _, _, backoff, _ = self._handlers[stored.job.handler]
        return backoff(1)


@mutant_of_a_whole("FAIL-2", "FAIL-9")
class RetriesAtOnceIfNoTimeIsGiven(WholeWorker):
    """Takes a Retry without a time for one without a wait."""

    def _wait(self, stored: Stored, error: BaseException) -> timedelta:
        if isinstance(error, Retry):
            return error.after or timedelta(0)
        return super()._wait(stored, error)


@mutant_of_a_whole("FAIL-2", "FAIL-9")
class LosesWhatIsDueBeyondTheCalendar(WholeWorker):
    """Reckons with a date, which has an end, and loses the job there."""

    def _settle(self, stored: Stored, error: BaseException | None) -> None:
        _, _, backoff, _ = self._handlers[stored.job.handler]
        with contextlib.suppress(OverflowError):
            datetime.now(UTC) + backoff(stored.attempt)
            super()._settle(stored, error)


@mutant_of_a_whole("FAIL-3")
class LosesWhatItCanNotDescribe(WholeWorker):
    """Logs the text of an error before it settles the job, and that raises."""

    def _settle(self, stored: Stored, error: BaseException | None) -> None:
        with contextlib.suppress(AttributeError):
            str(error)
            super()._settle(stored, error)


@mutant_of_a_whole("FAIL-4")
class TakesACancellationForAStop(WholeWorker):
    """Knows by its state who has cancelled a handler."""

    def _settle(self, stored: Stored, error: BaseException | None) -> None:
        if self._state is State.STOPPING and isinstance(error, asyncio.CancelledError):
            self._give_back(stored)
        else:
            super()._settle(stored, error)


@mutant("FAIL-5")
class TakesAReturnForASuccess(Wrapper):
    """Leaves timeouts to `wait_for`: what swallows its cancellation, and returns, is well."""

    def change_options(self, options: dict[str, Any]) -> dict[str, Any]:
        return options | {"timeout": None} if self._is_async else options

    def change_handler(self, name: str, handler: Any) -> Any:
        self._is_async = inspect.iscoroutinefunction(handler)
        return functools.partial(self._call, name, handler) if self._is_async else handler

    def register(self, name: str, handler: Any, **options: Any) -> None:
        super().register(name, handler, **options)
        timeout = options.get("timeout")
        seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
        self._timeouts[name] = seconds

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._timeouts: dict[str, float | None] = {}

    async def _call(self, name: str, handler: Any, args: Args) -> None:
        await asyncio.wait_for(handler(args), self._timeouts[name])


@mutant("FAIL-6")
class GuardsObserversAgainstExceptionsOnly(Handles):
    """Lets through what an observer raises that is no `Exception`, such as a cancellation."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._observers: list[object] = []

    def observe(self, observer: object) -> None:
        self._observers.append(observer)

    async def handle(self, handler: Any, args: Args) -> None:
        for observer in self._observers:
            if hook := getattr(observer, "job_started", None):
                with contextlib.suppress(Exception):
                    hook(job=current_job())
        await handler(args)


# -- order -----------------------------------------------------------------------


@mutant_of_a_whole("TIME-7", "FIFO-1")
class LooksNoSoonerForARetry(WholeWorker):
    """Has one timer, for the next that is due, and sets it for what is performed only."""

    def _push(self, stored: Stored) -> None:
        heap = self._heaps[stored.job.queue]
        if stored.attempt and heap:
            stored.due_ms = max(stored.due_ms, heap[0][0])
        super()._push(stored)


@mutant_of_a_whole("QUE-3")
class TakesTurnsBetweenTwoQueues(WholeWorker):
    """Has a fast one and a slow one in mind, and serves a third when these are empty."""

    def _next(self, now_ms: int) -> Stored | None:
        heaps = self._heaps
        self._heaps = {queue: heaps[queue] for queue in self._queues[:2]}
        stored = super()._next(now_ms)
        self._heaps = heaps
        return stored or super()._next(now_ms)


# -- dead letters ----------------------------------------------------------------


@mutant("DEAD-2")
class RequeuesForOneRun(Settles):
    """Remembers of a job that it was dead, and buries it when it fails again."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._requeued: set[str] = set()

    async def requeue_dead(self, ids: Sequence[str]) -> Sequence[str]:
        found = await super().requeue_dead(ids)
        self._requeued.update(found)
        return found

    def change(self, settlement: Settlement) -> Settlement:
        if settlement.verdict is Verdict.RETRY and settlement.delivery.id in self._requeued:
            return msgspec.structs.replace(settlement, verdict=Verdict.DEAD_LETTER, delay_ms=0)
        return settlement


@mutant("DEAD-2")
class RequeuesUntilNoneIsLeft(SimpleDriver):
    """Takes one page after the other from the beginning, until there is none."""

    async def requeue_all_dead(self) -> int:
        count = 0
        while page := await self.list_dead(100, None):
            count += len(await self.requeue_dead([letter.id for letter in page]))
            await asyncio.sleep(0.005)
        return count

    async def discard_all_dead(self) -> int:
        return len(await self.discard_dead(list(self._memory.dead)))


@mutant("DEAD-3")
class DiscardsEveryOtherOfAll(SimpleDriver):
    """Goes on behind a place, counted, from which those that were there have gone."""

    async def requeue_all_dead(self) -> int:
        return len(await self.requeue_dead(list(self._memory.dead)))

    async def discard_all_dead(self) -> int:
        count = 0
        while letters := list(self._memory.dead)[count : count + 1]:
            count += len(await self.discard_dead(letters))
        return count
