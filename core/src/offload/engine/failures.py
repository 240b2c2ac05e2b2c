"""What becomes of jobs that failed, or can't be run: a verdict, a line in the log, an event."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import timedelta

from offload.driver import Delivery, Failure, Settlement, Verdict
from offload.duration import format_duration
from offload.engine.logs import (
    engine_log,
    first_line,
    job_log,
    shown,
    write,
    write_traceback,
)
from offload.engine.registry import Registered
from offload.engine.settler import Settler
from offload.engine.verdicts import judge, storable
from offload.job import JobContext
from offload.observers import Observers


class Failures:
    """Hands the verdicts on failures to the settler."""

    def __init__(self, observers: Observers, settler: Settler, longest_delay: timedelta) -> None:
        self._observers = observers
        self._settler = settler
        self._longest_delay = longest_delay
        self._loop = asyncio.get_running_loop()

    def fail(
        self,
        delivery: Delivery,
        handler: Registered,
        context: JobContext,
        error: BaseException,
    ) -> None:
        """A run ended with this error."""
        if self._loop.is_closed():
            return  # a handler that died with its loop: there is nobody left to settle it
        try:
            settlement = judge(delivery, handler, error, self._longest_delay)
        except BaseException as fault:
            write(engine_log.critical, "the engine can't judge an error", error=fault)
            settlement = _plain_verdict(delivery, handler)
        self._settler.add(settlement, context)
        with contextlib.suppress(BaseException):  # there is a verdict, and there is to be one only
            self._log(settlement, context, handler.max_attempts)
            self._observers.tell("job_failed", job=context, error=error)

    def bury(self, delivery: Delivery, context: JobContext, reason: str, runs: int) -> None:
        """A job that never ran, or ran too often, is dead as it is."""
        failure = Failure(storable(reason), attempts=runs)
        settlement = Settlement(delivery, Verdict.DEAD_LETTER, failure=failure)
        self._settler.add(settlement, context)
        with contextlib.suppress(BaseException):  # as in `fail`
            self._log(settlement, context, 0)

    def _log(self, settlement: Settlement, context: JobContext, max_attempts: int) -> None:
        """One line for each attempt that failed; the last one with its traceback."""
        failure = settlement.failure or Failure("")
        of = f" of {max_attempts}" if max_attempts else ""
        what = (shown(context.id), shown(context.handler) or "unreadable", failure.attempts, of)
        if settlement.verdict is Verdict.RETRY:
            after = format_duration(timedelta(milliseconds=settlement.delay_ms))
            line = "job %s (%s): attempt %d%s failed, the next comes in %s: %s"
            write(job_log.warning, line, *what, after, first_line(failure.error))
        else:
            line = "job %s (%s): attempt %d%s failed; it is a dead letter: %s"
            write_traceback(
                job_log, line, *what, first_line(failure.error), trace=failure.traceback
            )


def _plain_verdict(delivery: Delivery, handler: Registered) -> Settlement:
    """The verdict on a failure that can't be judged."""
    failure = Failure("an error that can't be described", attempts=delivery.attempt)
    if delivery.attempt >= handler.max_attempts:
        return Settlement(delivery, Verdict.DEAD_LETTER, failure=failure)
    return Settlement(delivery, Verdict.RETRY, delay_ms=1000, failure=failure)


def context_of_unread(delivery: Delivery) -> JobContext:
    """What can be told of a job whose envelope wasn't opened."""
    return JobContext(delivery.id, delivery.queue, "", delivery.attempt, 0, delivery.due_ms)
