"""The verdict on a run that failed, and why it failed as text. Nothing here ever raises.

An exception is the application's: its text, its notes and even its class may
raise whatever they like when they are looked at.
"""

from __future__ import annotations

import contextlib
import math
import traceback
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from offload.driver import Delivery, Failure, Settlement, Verdict
from offload.engine.logs import engine_log, write
from offload.engine.registry import DEFAULT_BACKOFF, Registered
from offload.retry import Reject, Retry
from offload.validation import to_milliseconds

MAX_ERROR_CHARS = 1_000
MAX_TRACEBACK_CHARS = 16_000
MAX_BEHIND = 10_000
"""Errors behind an error that are looked at: its causes, and the members of groups."""
MAX_FRAMES = 60
"""At most this many frames of a traceback, the last ones, are kept."""


def judge(
    delivery: Delivery, handler: Registered, error: BaseException, longest: timedelta
) -> Settlement:
    """What becomes of a job whose run ended in this error (FAIL-1 to FAIL-3, FAIL-9).

    `longest` is the farthest into the future that the backend keeps a job.
    """
    failure = describe(error, delivery.attempt)
    if issubclass(type(error), Reject) or delivery.attempt >= handler.max_attempts:
        return Settlement(delivery, Verdict.DEAD_LETTER, failure=failure)
    wait = max(timedelta(0), min(_wait(error, handler, delivery.attempt), longest))
    return Settlement(delivery, Verdict.RETRY, delay_ms=to_milliseconds(wait), failure=failure)


def _wait(error: BaseException, handler: Registered, attempt: int) -> timedelta:
    """How long to wait before the next attempt: as the handler says, or its backoff."""
    if issubclass(type(error), Retry):
        after = _asked(lambda: error.after, "the `after` of a Retry")  # type: ignore[attr-defined]
        if after is not None:
            return after
    wait = _asked(lambda: handler.backoff(attempt), "a backoff")
    return DEFAULT_BACKOFF(attempt) if wait is None else wait


def _asked(ask: Callable[[], Any], what: str) -> timedelta | None:
    """What the application answers, as a duration; None if that is none."""
    try:
        answer = ask()
        if isinstance(answer, timedelta):
            return answer
        if isinstance(answer, int | float) and not isinstance(answer, bool):
            return _seconds(answer)
        if answer is not None:
            kind = type(answer).__name__
            write(engine_log.error, "%s is a %s, not a timedelta; the default is used", what, kind)
    except BaseException as fault:
        write(engine_log.error, "%s raised; the default is used", what, error=fault)
    return None


def _seconds(number: float) -> timedelta:
    """`number` seconds, clamped to what a timedelta holds."""
    if math.isnan(number):
        raise ValueError("NaN is no number of seconds")
    try:
        return timedelta(seconds=number)
    except OverflowError:
        return timedelta.max if number > 0 else timedelta(0)


def describe(error: BaseException, attempts: int) -> Failure:
    """The error of the last of `attempts` runs, as text that every backend can store."""
    return Failure(
        storable(_summary(error)[:MAX_ERROR_CHARS]),
        storable(_traceback(error)[-MAX_TRACEBACK_CHARS:]),
        attempts,
    )


def _summary(error: BaseException) -> str:
    """The class and the text of an error; its notes and causes are in the traceback."""
    name = _name(type(error))
    try:
        # Cut by str's own method: the text may be long, and of a class that has others.
        text = str.__getitem__(str(error), slice(MAX_ERROR_CHARS)).strip()
    except BaseException:
        return f"{name} (its text can't be read: that raises)"
    return f"{name}: {text}" if text else name


def _name(kind: type[BaseException]) -> str:
    """The name of a class as in a traceback; a metaclass may make even that raise."""
    with contextlib.suppress(BaseException):
        module, name = kind.__module__, kind.__qualname__
        if type(name) is str and type(module) is str:
            return name if module in ("builtins", "__main__") else f"{module}.{name}"
    return "an error without a name"


def _traceback(error: BaseException) -> str:
    # The first frame is the engine's own, and of no use to a reader.
    frames = error.__traceback__ and error.__traceback__.tb_next
    with contextlib.suppress(BaseException):
        return "".join(traceback.format_exception(type(error), error, frames, limit=-MAX_FRAMES))
    with contextlib.suppress(BaseException):
        return "".join(traceback.format_tb(frames, limit=-MAX_FRAMES))
    return ""


def let_frames_go(error: BaseException) -> None:
    """Take the traceback off an error, and off those behind it.

    A frame that holds on to the error that went through it (as `TaskGroup` does,
    and many a handler) would keep everything in all of them alive until the
    garbage collector comes round to it.
    """
    left, seen = [error], set[int]()
    while left and len(seen) < MAX_BEHIND:
        each = left.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        with contextlib.suppress(BaseException):
            each.__traceback__ = None
            left += filter(None, (each.__cause__, each.__context__))
            if isinstance(each, BaseExceptionGroup):  # others may call anything `exceptions`
                left += each.exceptions


def storable(text: str) -> str:
    """The text without lone surrogates and NUL, which not every backend can hold."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


def timed_out(handler: Registered, error: BaseException | None) -> TimeoutError:
    """The error of a run that took too long, whatever its handler raised when it was cancelled."""
    timeout = TimeoutError(f"the handler took longer than {handler.timeout:g} s")
    return timeout.with_traceback(error.__traceback__ if error else None)
