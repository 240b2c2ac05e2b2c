"""The handlers of a worker."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta

from offload.duration import format_duration
from offload.errors import DuplicateHandlerError
from offload.job import NAME_PATTERN, NAME_RULE, Handler
from offload.retry import Backoff, exponential

DEFAULT_BACKOFF = exponential()
MOST_ATTEMPTS = 1_000_000
MOST_SECONDS = 315_360_000
"""Ten years: a timeout beyond any use, and within what an event loop can wait."""


@dataclass(frozen=True, slots=True)
class Registered:
    """A handler with its options."""

    function: Handler
    is_async: bool
    max_attempts: int
    backoff: Backoff
    timeout: float | None
    """In seconds."""


class Registry:
    """Handlers by name."""

    def __init__(self, max_attempts: int, longest_run: timedelta | None = None) -> None:
        """`longest_run` is how long the backend leaves a job to a worker."""
        self._longest_run = longest_run
        self._handlers: dict[str, Registered] = {}
        self.get = self._handlers.get
        self.has = self._handlers.__contains__
        self.absent = Registered(_absent, True, max_attempts, DEFAULT_BACKOFF, None)
        """Stands in for a handler that isn't registered here, with the worker's own options."""

    def __iter__(self) -> Iterator[str]:
        return iter(self._handlers)

    def add(
        self,
        name: str,
        function: Handler,
        max_attempts: int | None,
        backoff: Backoff | None,
        timeout: timedelta | float | None,
    ) -> None:
        """See `Worker.register`."""
        if not isinstance(name, str) or not NAME_PATTERN.fullmatch(name):
            raise ValueError(f"handler name {name!r}: must be {NAME_RULE}")
        _check_function(name, function)
        if name in self._handlers:
            raise DuplicateHandlerError(f"handler {name!r} is registered already")
        if max_attempts is None:
            max_attempts = self.absent.max_attempts
        elif type(max_attempts) is not int or not 1 <= max_attempts <= MOST_ATTEMPTS:
            raise ValueError(
                f"handler {name!r}: max_attempts must be an int from 1 to {MOST_ATTEMPTS}"
            )
        if backoff is not None:
            _check_backoff(name, backoff)
        self._handlers[name] = Registered(
            function,
            _is_async(function),
            max_attempts,
            backoff or DEFAULT_BACKOFF,
            None if timeout is None else self._in_bounds(name, _seconds(name, timeout)),
        )

    def _in_bounds(self, name: str, timeout: float) -> float:
        longest = self._longest_run
        if longest is not None and timeout >= longest.total_seconds():
            raise ValueError(
                f"handler {name!r}: its timeout must be shorter than {format_duration(longest)}, "
                f"after which the backend gives the job to another worker; {timeout:g} s is not"
            )
        return timeout


def _seconds(name: str, timeout: timedelta | float) -> float:
    seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise TypeError(f"handler {name!r}: timeout must be a timedelta or seconds")
    if not 0 < seconds <= MOST_SECONDS:
        raise ValueError(
            f"handler {name!r}: timeout must be more than 0 s and at most {MOST_SECONDS:,} s"
        )
    return float(seconds)


def _check_function(name: str, function: Handler) -> None:
    """Refuse what could be called for each job and would run nothing, or only fail."""
    form = "a handler is a `def` or `async def` that is called with the args of the job"
    if not callable(function):
        raise TypeError(f"handler {name!r}: {function!r} is not callable; {form}")
    if any(isinstance(f, type) for f in (function, _code(function)[0])):
        raise TypeError(
            f"handler {name!r}: {function!r} is a class, and calling it would only make an "
            f"instance; {form}"
        )
    if _is_any(function, inspect.isgeneratorfunction, inspect.isasyncgenfunction):
        raise TypeError(
            f"handler {name!r}: {function!r} has a `yield` in it, so a call of it runs nothing; "
            f"{form}"
        )
    if fault := _unfit_for(function, {}):
        raise TypeError(f"handler {name!r}: {function!r} takes {fault}; {form}")


def _check_backoff(name: str, backoff: Backoff) -> None:
    """Refuse what could never tell a time."""
    form = "a backoff is a `def` that is called with the number of the attempt"
    if not callable(backoff):
        raise TypeError(f"handler {name!r}: backoff {backoff!r} is not callable; {form}")
    if _is_any(
        backoff,
        inspect.iscoroutinefunction,
        inspect.isgeneratorfunction,
        inspect.isasyncgenfunction,
    ):
        raise TypeError(f"handler {name!r}: backoff {backoff!r} returns no time; {form}")
    if fault := _unfit_for(backoff, 1):
        raise TypeError(f"handler {name!r}: backoff {backoff!r} takes {fault}; {form}")


def _unfit_for(function: Callable[..., object], argument: object) -> str:
    """Why a call with this one argument would fail, if it surely would."""
    try:
        # As it is called: a decorator may bring more arguments to the function that it wraps.
        signature = inspect.signature(function, follow_wrapped=False)
    except Exception:  # some that are written in C tell none, and some objects raise at any look
        return ""
    try:
        signature.bind(argument)
    except TypeError as error:
        return f"{signature}, not one argument ({error})"
    return ""


def _is_async(function: Handler) -> bool:
    return _is_any(function, inspect.iscoroutinefunction)


def _is_any(function: object, *kinds: Callable[[object], bool]) -> bool:
    for each in _code(function):
        for is_kind in kinds:
            with contextlib.suppress(Exception):  # an object may raise at any look at it
                if is_kind(each):
                    return True
    return False


def _code(function: object) -> tuple[object, object]:
    """What is run by a call: the function, or what the `__call__` of an object is."""
    while isinstance(function, functools.partial | staticmethod):
        function = function.func if isinstance(function, functools.partial) else function.__func__
    return function, getattr(type(function), "__call__", None)  # noqa: B004  (not whether it is)


async def _absent(_: object) -> None:
    raise AssertionError("never called: a job without a handler fails before it runs")
