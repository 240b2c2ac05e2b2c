"""FAIL: slips in what becomes of a job that fails."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from offload import (
    Args,
    Delivery,
    Failure,
    Reject,
    Retry,
    Settlement,
    Verdict,
    current_job,
)
from offload.config import Config
from offload_mutants.drivers import Handles, Settles, SettlesSqlite, fetches
from offload_mutants.registry import mutant
from offload_mutants.wrapper import Wrapper
from offload_simple.memory import StoredJob
from offload_sqlite.driver import SqliteDriver
from offload_sqlite.subscription import SqliteSubscription

# -- attempts --------------------------------------------------------------------


@mutant("FAIL-1", "REG-4")
class TakesAttemptsForRetries(Wrapper):
    """Runs a job once, and then max_attempts times again, if the handler has its own number."""

    def change_options(self, options: dict[str, Any]) -> dict[str, Any]:
        own = options["max_attempts"]
        return options | {"max_attempts": own + 1 if isinstance(own, int) else own}


@mutant("FAIL-1", "FAIL-2", "FAIL-9", "PERF-2")
class LosesASecondRetry(Settles):
    """Acknowledges a failed job and copies it for the next attempt, but not a copy."""

    def change(self, settlement: Settlement) -> Settlement:
        if settlement.verdict is Verdict.RETRY and settlement.delivery.attempt > 1:
            return msgspec.structs.replace(settlement, verdict=Verdict.ACKNOWLEDGE)
        return settlement


@mutant("FAIL-1", "FAIL-2", "FAIL-9", "PERF-2")
class NeverCountsBeyondTwo(Settles):
    """Knows only whether a job was redelivered, as brokers tell, not how often."""

    def change(self, settlement: Settlement) -> Settlement:
        if settlement.verdict is Verdict.RETRY and settlement.delivery.attempt == 2:
            set_attempt(settlement, 1)
        return settlement


def set_attempt(settlement: Settlement, attempt: int) -> None:
    """Let the job go on as if this had been its last attempt."""
    job: StoredJob = settlement.delivery.receipt
    # Once it is settled: until then the attempt is what fences it.
    asyncio.get_running_loop().call_soon(setattr, job, "attempt", attempt)


@mutant("FAIL-2", "FAIL-9")
class RetriesAtOnce(Settles):
    """Puts a failed job back into its queue, without its delay."""

    def change(self, settlement: Settlement) -> Settlement:
        return msgspec.structs.replace(settlement, delay_ms=0)


@mutant("FAIL-2")
class CountsABackoffFromTheStart(Settles):
    """Takes the time that the attempt took off the wait."""

    def change(self, settlement: Settlement) -> Settlement:
        took = time.time_ns() // 1_000_000 - settlement.delivery.due_ms
        left = max(0, settlement.delay_ms - took)
        return msgspec.structs.replace(settlement, delay_ms=left)


@mutant("FAIL-2", "FAIL-9", "TIME-1")
class RetriesInWholeSeconds(Settles):
    """Counts a backoff in whole seconds, and rounds it down."""

    def change(self, settlement: Settlement) -> Settlement:
        return msgspec.structs.replace(settlement, delay_ms=settlement.delay_ms // 1000 * 1000)


# -- dead letters ------------------------------------------------------------------


@mutant("FAIL-3")
class BuriesWithoutTheTraceback(Settles):
    """Keeps of an error its text alone."""

    def change(self, settlement: Settlement) -> Settlement:
        if (failure := settlement.failure) is None:
            return settlement
        failure = msgspec.structs.replace(failure, traceback="")
        return msgspec.structs.replace(settlement, failure=failure)


@mutant("FAIL-3", "FAIL-9", "DEAD-1")
class BuriesWithoutTheReason(Settles):
    """Moves the job to the dead letters, and forgets why."""

    def change(self, settlement: Settlement) -> Settlement:
        if (failure := settlement.failure) is None:
            return settlement
        return msgspec.structs.replace(settlement, failure=Failure("failed", "", failure.attempts))


@mutant("FAIL-3")
class KeepsTheFirstError(Settles):
    """Writes the error at the first failure, and never again."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._first: dict[str, Failure] = {}

    def change(self, settlement: Settlement) -> Settlement:
        if (failure := settlement.failure) is None:
            return settlement
        first = self._first.setdefault(settlement.delivery.id, failure)
        kept = msgspec.structs.replace(first, attempts=failure.attempts)
        return msgspec.structs.replace(settlement, failure=kept)


# -- what handlers raise -------------------------------------------------------------


@mutant("FAIL-4")
class TakesCancellationForSuccess(Handles):
    """Swallows a CancelledError, as if only the worker itself could cancel a handler."""

    async def handle(self, handler: Callable[[Args], Any], args: Args) -> None:
        try:
            await handler(args)
        except asyncio.CancelledError:
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise


@mutant("FAIL-4")
class StopsOnSystemExit(Handles):
    """Obeys a handler that wants to leave."""

    async def handle(self, handler: Callable[[Args], Any], args: Args) -> None:
        try:
            await handler(args)
        except SystemExit:
            self._leaving = asyncio.create_task(self.inner.stop())
            raise


@mutant("FAIL-4")
class LetsKeyboardInterruptThrough(Handles):
    """Catches all but a KeyboardInterrupt, which ends the event loop."""

    async def handle(self, handler: Callable[[Args], Any], args: Args) -> None:
        try:
            await handler(args)
        except KeyboardInterrupt as error:
            asyncio.get_running_loop().call_soon(self._pass_on, error)
            raise

    def _pass_on(self, error: KeyboardInterrupt) -> None:
        raise error


@mutant("FAIL-5")
class IgnoresTimeouts(Wrapper):
    """Takes the option and does nothing with it."""

    def change_options(self, options: dict[str, Any]) -> dict[str, Any]:
        return options | {"timeout": None}


@mutant("FAIL-5")
class TakesATimeoutForTheEnd(Settles):
    """Cancels a handler that takes too long, and counts it as done."""

    def change(self, settlement: Settlement) -> Settlement:
        failure = settlement.failure
        if failure is not None and failure.error.startswith("TimeoutError"):
            return msgspec.structs.replace(settlement, verdict=Verdict.ACKNOWLEDGE)
        return settlement


# -- other jobs ------------------------------------------------------------------------


@mutant("FAIL-6")
class WaitsForTheRetry(Settles):
    """Keeps the order of a queue at any price: nothing overtakes a job that is to be retried."""

    def change(self, settlement: Settlement) -> Settlement:
        if settlement.verdict is Verdict.RETRY and settlement.delay_ms > 60_000:
            ready = self._memory.ready[settlement.delivery.queue]
            held = list(ready)
            ready.clear()
            loop = asyncio.get_running_loop()
            loop.call_later(settlement.delay_ms / 1000, ready.extend, held)
        return settlement


@mutant("FAIL-6")
class LetsObserversFailAJob(Handles):
    """Calls the observers inside the try that guards the handler."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._observers: list[object] = []

    def observe(self, observer: object) -> None:
        self._observers.append(observer)

    async def handle(self, handler: Callable[[Args], Any], args: Args) -> None:
        for observer in self._observers:
            if hook := getattr(observer, "job_started", None):
                hook(job=current_job())
        await handler(args)


# -- what can't be run ---------------------------------------------------------------


@mutant("FAIL-7", base="sqlite")
class DropsWhatHasNoHandler(SettlesSqlite):
    """Logs that nobody handles a job, and acknowledges it."""

    def change(self, settlement: Settlement) -> Settlement:
        failure = settlement.failure
        if failure is not None and "is not registered here" in failure.error:
            return msgspec.structs.replace(settlement, verdict=Verdict.ACKNOWLEDGE)
        return settlement


@mutant("FAIL-7", base="sqlite", quick=False)
class BuriesWhatHasNoHandler(SettlesSqlite):
    """Gives up a job without a handler at once, though a newer worker may have one."""

    def change(self, settlement: Settlement) -> Settlement:
        failure = settlement.failure
        if failure is not None and "is not registered here" in failure.error:
            return msgspec.structs.replace(settlement, verdict=Verdict.DEAD_LETTER)
        return settlement


@mutant("FAIL-8", base="sqlite")
class DropsForeignBytes(SettlesSqlite):
    """Acknowledges what it can't read."""

    def change(self, settlement: Settlement) -> Settlement:
        failure = settlement.failure
        if failure is not None and failure.error.startswith("not a job envelope"):
            return msgspec.structs.replace(settlement, verdict=Verdict.ACKNOWLEDGE)
        return settlement


@mutant("FAIL-8", base="sqlite")
class ChokesOnForeignBytes(SqliteDriver):
    """Decodes inside the fetch, which then fails with all that was leased."""

    async def subscribe(self, queues: Sequence[str]) -> SqliteSubscription:
        def decoded(deliveries: Sequence[Delivery]) -> list[Delivery]:
            for delivery in deliveries:
                msgspec.json.decode(delivery.body)
            return list(deliveries)

        return fetches(await super().subscribe(queues), decoded)


# -- Retry and Reject ------------------------------------------------------------------


@mutant("FAIL-9")
class TakesRetryForAnyError(Handles):
    """Knows no Retry: the usual backoff it is."""

    async def handle(self, handler: Callable[[Args], Any], args: Args) -> None:
        try:
            await handler(args)
        except Retry as error:
            raise RuntimeError(str(error)) from error


@mutant("FAIL-9", "FAIL-6", "LIFE-13", "DEAD-2", "DEAD-3")
class TakesRejectForAnyError(Handles):
    """Knows no Reject: it is retried, in vain."""

    async def handle(self, handler: Callable[[Args], Any], args: Args) -> None:
        try:
            await handler(args)
        except Reject as error:
            raise RuntimeError(str(error)) from error


@mutant("FAIL-9")
class DoesNotCountARetry(Settles):
    """Takes a Retry for no failure, so that its attempt is the same again."""

    def change(self, settlement: Settlement) -> Settlement:
        failure = settlement.failure
        if failure is not None and failure.error.startswith("offload.Retry"):
            set_attempt(settlement, settlement.delivery.attempt - 1)
        return settlement
