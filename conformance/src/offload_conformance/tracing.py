"""`offload certify --trace-driver FILE`: every call to the driver, a line of JSON each.

Of the arguments only how many there are and how large: what is in a job is nobody's business.
The workers in other processes write to the same file, which they find in the environment.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import json
import os
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

import offload
from offload import Driver, Fetched, Worker
from offload.adapters import find_adapter, make_worker
from offload.config import Config, parse_address, read_config
from offload_conformance.logs import Masked

TRACE = "OFFLOAD_KIT_TRACE"
"""The variable with the path of the file."""

DRIVER_CALLS = (
    *("open", "enqueue", "subscribe", "close", "counts", "claim_notes"),
    *("list_dead", "show_dead", "requeue_dead", "discard_dead"),
    *("requeue_all_dead", "discard_all_dead", "enqueue_sync", "close_sync"),
)
SUBSCRIPTION_CALLS = ("fetch", "wait", "settle", "extend", "close")
_SHOWN = 200
"""Characters of an error."""
_numbers = itertools.count(1)


def connect(url: str | None = None) -> Worker:
    """As `offload.connect`, with the driver traced if that is asked for."""
    if TRACE not in os.environ:
        return offload.connect(url)
    url = url or os.environ["OFFLOAD_URL"]
    address = parse_address(url)
    adapter = find_adapter(address.scheme)
    masked = Masked(url)

    def make(config: Config) -> Driver | Worker:
        made = adapter.make(config)
        if isinstance(made, Worker):
            return made
        driver: Driver = traced(made, DRIVER_CALLS, f"driver-{next(_numbers)}", masked)
        return driver

    return make_worker(replace(adapter, make=make), read_config(address, adapter.options))


def traced(made: Any, calls: Collection[str], name: str, masked: Callable[[str], str] = str) -> Any:
    """The same driver or subscription, each of these calls traced.

    Its class is made for it: it has what the original has, which is how the engine sees which
    optional protocols there are.
    """
    members: dict[str, Any] = {
        each: _passed(made, each)
        for each in dir(made)
        if not (each.startswith("__") and each.endswith("__"))
    }
    for call in calls:
        if callable(getattr(made, call, None)):
            members[call] = _traced_call(getattr(made, call), call, name, masked)
    return type(f"Traced{type(made).__name__}", (), members)()


def _passed(made: Any, name: str) -> property:
    return property(lambda _: getattr(made, name), lambda _, value: setattr(made, name, value))


def _traced_call(
    method: Callable[..., Any], call: str, name: str, masked: Callable[[str], str]
) -> Any:
    def note(arguments: tuple[Any, ...], began: float, outcome: str) -> None:
        line = {
            "at": time.time(),
            "pid": os.getpid(),
            "on": name,
            "call": call,
            "arguments": [size_of(each) for each in arguments],
            "outcome": outcome,
            "ms": round((time.monotonic() - began) * 1000, 3),
        }
        _write(json.dumps(line))

    def failed(error: BaseException) -> str:
        return masked(f"{type(error).__name__}: {error}")[:_SHOWN]

    @functools.wraps(method)
    async def traced_async(_: Any, *arguments: Any, **named: Any) -> Any:
        began = time.monotonic()
        try:
            result = await method(*arguments, **named)
        except BaseException as error:
            note((*arguments, *named.values()), began, failed(error))
            raise
        note((*arguments, *named.values()), began, size_of(result))
        if call == "subscribe":
            on = f"{name}, subscription-{next(_numbers)}"
            return traced(result, SUBSCRIPTION_CALLS, on, masked)
        return result

    @functools.wraps(method)
    def traced_plain(_: Any, *arguments: Any, **named: Any) -> Any:
        began = time.monotonic()
        try:
            result = method(*arguments, **named)
        except BaseException as error:
            note((*arguments, *named.values()), began, failed(error))
            raise
        note((*arguments, *named.values()), began, size_of(result))
        return result

    return traced_async if inspect.iscoroutinefunction(method) else traced_plain


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
