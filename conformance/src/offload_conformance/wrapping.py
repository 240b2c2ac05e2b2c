"""A worker whose driver's calls pass through functions of the kit's, and which notices nothing."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

import offload
from offload import Driver, Worker
from offload.adapters import find_adapter, make_worker
from offload.config import Config, parse_address, read_config

DRIVER_CALLS = (
    *("open", "enqueue", "subscribe", "close", "counts", "claim_notes"),
    *("list_dead", "show_dead", "requeue_dead", "discard_dead"),
    *("requeue_all_dead", "discard_all_dead", "enqueue_sync", "close_sync"),
)
SUBSCRIBE = "subscribe"
SUBSCRIPTION_CALLS = ("fetch", "wait", "settle", "extend", "close")

Wrap = Callable[[Callable[..., Any], str, str], Any]
"""Of a method, the name of the call, and what it is called on: what is called instead."""

_numbers = itertools.count(1)


def connect(url: str, *wraps: Wrap) -> Worker:
    """As `offload.connect`, with these around every call of the driver, if it has one."""
    if not wraps:
        return offload.connect(url)
    address = parse_address(url)
    adapter = find_adapter(address.scheme)

    def make(config: Config) -> Driver | Worker:
        made = adapter.make(config)
        if isinstance(made, Worker):
            return made
        driver: Driver = wrapped(made, DRIVER_CALLS, f"driver-{next(_numbers)}", *wraps)
        return driver

    return make_worker(replace(adapter, make=make), read_config(address, adapter.options))


def wrapped(made: Any, calls: Collection[str], on: str, *wraps: Wrap) -> Any:
    """The same driver or subscription, with these around each of its calls.

    Its class is made for it: it has what the original has, which is how the engine sees which
    optional protocols there are.
    """
    members: dict[str, Any] = {
        each: _passed(made, each)
        for each in dir(made)
        if not (each.startswith("__") and each.endswith("__"))
    }
    for call in calls:
        if callable(method := getattr(made, call, None)):
            for wrap in wraps:
                method = wrap(method, call, on)
            members[call] = staticmethod(
                _subscribing(method, on, *wraps) if call == SUBSCRIBE else method
            )
    return type(f"Wrapped{type(made).__name__}", (), members)()


def _passed(made: Any, name: str) -> property:
    return property(lambda _: getattr(made, name), lambda _, value: setattr(made, name, value))


def _subscribing(method: Callable[..., Any], on: str, *wraps: Wrap) -> Callable[..., Any]:
    async def subscribe(*arguments: Any, **named: Any) -> Any:
        name = f"{on}, subscription-{next(_numbers)}"
        return wrapped(await method(*arguments, **named), SUBSCRIPTION_CALLS, name, *wraps)

    return subscribe
