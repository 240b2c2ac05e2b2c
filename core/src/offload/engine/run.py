"""One run of one job, and the verdict on it."""

from __future__ import annotations

import asyncio
import logging
import traceback
from datetime import timedelta
from enum import Enum

import msgspec

from offload.driver import Delivery, Failure, Settlement, Verdict
from offload.engine.registry import DEFAULT_BACKOFF, Registered
from offload.job import Args, JobContext
from offload.retry import Reject, Retry
from offload.validation import to_milliseconds

log = logging.getLogger("offload")

MAX_ERROR_CHARS = 1_000
MAX_TRACEBACK_CHARS = 16_000


class Interruption(Enum):
    """Why the engine cancelled a run; no failure of the job's."""

    STOPPING = "the worker stopped"
    LEASE_LOST = "its lease was lost"


class Run(msgspec.Struct, eq=False):
    """A delivery with its handler, while it runs."""

    delivery: Delivery
    handler: Registered
    context: JobContext
    args: Args
    task: asyncio.Task[None] | None = None
    interruption: Interruption | None = None

    def interrupt(self, why: Interruption) -> None:
        """Cancel the handler, as far as it can be."""
        self.interruption = why
        if self.task is not None:
            self.task.cancel()


def judge(delivery: Delivery, handler: Registered, error: BaseException) -> Settlement:
    """What becomes of a job whose run ended in this error (FAIL-1 to FAIL-3, FAIL-9)."""
    failure = describe(error, delivery.attempt)
    if isinstance(error, Reject) or delivery.attempt >= handler.max_attempts:
        return Settlement(delivery, Verdict.DEAD_LETTER, failure=failure)
    wait = error.after if isinstance(error, Retry) else _backoff(handler, delivery.attempt)
    return Settlement(delivery, Verdict.RETRY, delay_ms=to_milliseconds(wait), failure=failure)


def _backoff(handler: Registered, attempt: int) -> timedelta:
    try:
        wait = handler.backoff(attempt)
        if isinstance(wait, timedelta):
            return wait
        log.error("a backoff returned %s, not a timedelta; the default is used", type(wait))
    except Exception:
        log.exception("a backoff raised; the default is used")
    return DEFAULT_BACKOFF(attempt)


def describe(error: BaseException, attempts: int) -> Failure:
    """The error of the last of so many runs, as text that every backend can store."""
    summary = traceback.format_exception_only(error)[-1].strip()
    # The first frame is the engine's own, and of no use to whoever reads it.
    frames = error.__traceback__ and error.__traceback__.tb_next
    trace = "".join(traceback.format_exception(type(error), error, frames))
    return Failure(
        _storable(summary[:MAX_ERROR_CHARS]), _storable(trace[-MAX_TRACEBACK_CHARS:]), attempts
    )


def _storable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def timed_out(handler: Registered, error: BaseException | None) -> TimeoutError:
    """The error of a run that took too long, whatever its handler raised when it was cancelled."""
    timeout = TimeoutError(f"the handler took longer than {handler.timeout:g} s")
    return timeout.with_traceback(error.__traceback__ if error else None)
