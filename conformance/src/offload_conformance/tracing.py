"""`offload certify --trace-driver FILE`: every call to the driver, a line of JSON each.

Of the arguments only how many there are and how large: what is in a job is nobody's business.
The workers in other processes write to the same file, which they find in the environment.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from offload import Fetched, Worker
from offload_conformance import wrapping
from offload_conformance.logs import Masked
from offload_conformance.wrapping import Wrap

TRACE = "OFFLOAD_KIT_TRACE"
"""The variable with the path of the file."""

_SHOWN = 200
"""Characters of an error."""


def connect(url: str | None = None, *wraps: Wrap) -> Worker:
    """As `wrapping.connect`, with the driver traced if that is asked for."""
    url = url or os.environ["OFFLOAD_URL"]
    if TRACE in os.environ:
        wraps = (*wraps, traced(Masked(url)))
    return wrapping.connect(url, *wraps)


def traced(masked: Callable[[str], str] = str) -> Wrap:
    """What traces a call; what it raised is told as `masked` makes it."""

    def trace(method: Callable[..., Any], call: str, on: str) -> Any:
        @contextlib.contextmanager
        def noted(arguments: tuple[Any, ...]) -> Iterator[list[Any]]:
            """Note a call within it, with the result that is added to the list."""
            began, results = time.monotonic(), list[Any]()
            try:
                yield results
            except BaseException as error:
                outcome = masked(f"{type(error).__name__}: {error}")[:_SHOWN]
                raise
            else:
                outcome = size_of(results[0])
            finally:
                line = {
                    "at": time.time(),
                    "pid": os.getpid(),
                    "on": on,
                    "call": call,
                    "arguments": [size_of(each) for each in arguments],
                    "outcome": outcome,
                    "ms": round((time.monotonic() - began) * 1000, 3),
                }
                _write(json.dumps(line))

        @functools.wraps(method)
        async def traced_async(*arguments: Any, **named: Any) -> Any:
            with noted((*arguments, *named.values())) as results:
                results.append(await method(*arguments, **named))
            return results[0]

        @functools.wraps(method)
        def traced_plain(*arguments: Any, **named: Any) -> Any:
            with noted((*arguments, *named.values())) as results:
                results.append(method(*arguments, **named))
            return results[0]

        return traced_async if inspect.iscoroutinefunction(method) else traced_plain

    return trace


def _write(line: str) -> None:
    # One write, at the end of the file: lines of several processes don't mix.
    file = os.open(os.environ[TRACE], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, line.encode() + b"\n")
    finally:
        os.close(file)


def size_of(value: Any) -> str:
    """What an argument or a result is, without what is in it."""
    if value is None or isinstance(value, bool | int | float):
        return repr(value)
    if isinstance(value, Fetched):
        due = f", next due in {value.next_due_ms} ms" if value.next_due_ms is not None else ""
        return f"{size_of(value.deliveries)}{due}"
    if isinstance(value, str | bytes):
        return f"{len(value)} {'bytes' if isinstance(value, bytes) else 'characters'}"
    if isinstance(value, Mapping | Collection):
        kinds = sorted({type(each).__name__ for each in value})
        bodies = sum(len(getattr(each, "body", b"")) for each in value)
        return f"{len(value)} {'/'.join(kinds)}".rstrip() + (f", {bodies} bytes" if bodies else "")
    return type(value).__name__
