"""What the contract asks of every call, checked the same way by every worker.

The engine uses it, and so may a `Worker` that is implemented whole: public.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from offload.args import encode_args
from offload.claims import Limits
from offload.duration import format_duration
from offload.errors import InvalidJobError, JobTooLargeError, UnsupportedError, UsageError
from offload.job import NAME_PATTERN, NAME_RULE, QUEUE_PATTERN, QUEUE_RULE, Job

__all__ = [
    "capture_args",
    "check_handler_name",
    "check_job",
    "check_queue_name",
    "named",
    "read_delay",
    "read_instant",
    "to_milliseconds",
]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


def check_job(job: Any, limits: Limits) -> bytes:
    """Check a whole job, and return its args as bytes (PERF-4, QUE-4, ARGS-2 to ARGS-5).

    Raises:
        InvalidJobError, JobTooLargeError: naming what is wrong.
    """
    if not isinstance(job, Job):
        raise InvalidJobError(f"a Job is performed, not {type(job).__name__}")
    check_handler_name(job.handler)
    check_queue_name(job.queue)
    return capture_args(job.args, limits)


def named(error: UsageError, jobs: Sequence[Any], index: int) -> UsageError:
    """The same error, saying which of several jobs it is about."""
    handler = getattr(jobs[index], "handler", None)
    which = f"job {index} of {len(jobs)} (from 0)"
    if isinstance(handler, str):
        which += f", for handler {handler[:128]!r}"
    return type(error)(f"{which}: {error}")


def check_handler_name(name: Any) -> None:
    """Raise InvalidJobError unless a handler may be called so."""
    if not isinstance(name, str) or not NAME_PATTERN.fullmatch(name):
        raise InvalidJobError(f"handler {name!r}: must be {NAME_RULE}")


def check_queue_name(name: Any) -> None:
    """Raise InvalidJobError unless a queue may be called so."""
    if not isinstance(name, str) or not QUEUE_PATTERN.fullmatch(name):
        raise InvalidJobError(f"queue {name!r}: must be {QUEUE_RULE}")


def capture_args(args: Any, limits: Limits) -> bytes:
    """The args as they are now, as compact JSON in UTF-8.

    Raises:
        InvalidJobError: by path, for what JSON can't carry. JobTooLargeError.
    """
    captured = encode_args(args)
    if len(captured) > limits.max_job_bytes:
        raise JobTooLargeError(
            f"the args take {len(captured)} bytes as JSON; {limits.max_job_bytes} are accepted"
        )
    return captured


def read_delay(delay: Any, limits: Limits) -> int:
    """A delay (a timedelta, or seconds) in milliseconds, rounded up; 0 for what is past.

    Raises:
        InvalidJobError: not a finite number (TIME-4). UnsupportedError: too far (TIME-6).
    """
    if isinstance(delay, timedelta):
        wait = delay
    elif isinstance(delay, bool) or not isinstance(delay, int | float):
        raise InvalidJobError(f"delay: must be a timedelta or seconds, not {type(delay).__name__}")
    elif isinstance(delay, float) and not math.isfinite(delay):
        raise InvalidJobError(f"delay: must be finite, not {delay}")
    else:
        try:
            wait = timedelta(seconds=delay)
        except OverflowError:
            wait = timedelta.max if delay > 0 else timedelta.min
    _check_reach(wait, limits)
    return to_milliseconds(wait)


def read_instant(when: Any, limits: Limits) -> int:
    """An instant in milliseconds since the epoch, rounded up.

    Raises:
        InvalidJobError: no datetime with a zone (TIME-4). UnsupportedError: too far (TIME-6).
    """
    if not isinstance(when, datetime):
        raise InvalidJobError(f"when: must be a datetime, not {type(when).__name__}")
    if when.utcoffset() is None:
        raise InvalidJobError("when: must have a zone, for example tzinfo=UTC")
    # The zones differ, so Python goes by way of UTC: both folds of a DST change are told apart
    # (TIME-8), and the ends of the calendar don't overflow.
    since_epoch = when - _EPOCH
    _check_reach(since_epoch - timedelta(seconds=time.time()), limits)
    return -(-since_epoch // _MILLISECOND)


def to_milliseconds(delay: timedelta) -> int:
    """A delay in whole milliseconds, rounded up so that nothing is early; never negative."""
    return max(0, -(-delay // _MILLISECOND))


def _check_reach(delay: timedelta, limits: Limits) -> None:
    if delay > limits.max_delay:
        raise UnsupportedError(
            f"a job can be scheduled up to {format_duration(limits.max_delay)} ahead, not farther"
        )
