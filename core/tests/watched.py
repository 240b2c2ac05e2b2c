"""A driver in memory that a test can watch, hold and fail at each call, and a worker made of it."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import offload_simple
from offload import (
    Args,
    BackendUnavailableError,
    Delivery,
    Entry,
    Fetched,
    Limits,
    QueueCounts,
    Settlement,
    StoredDeadLetter,
)
from offload.config import parse_address, read_config
from offload.engine import DriverWorker
from offload_simple.driver import SimpleDriver
from offload_simple.subscription import SimpleSubscription

DEADLINE = 20.0
"""Seconds after which something that had to happen has not."""


def away() -> BackendUnavailableError:
    return BackendUnavailableError("away")


async def nothing(args: Args) -> None:
    """A handler."""


class Watch:
    """What is known of the calls of a driver: each by its name."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, Any]] = []
        """Each call with its argument, in the order in which they began."""
        self.ended: list[str] = []
        self.cancelled: list[str] = []
        self.overlaps: set[tuple[str, str]] = set()
        """A call that began, and one that was under way by then."""
        self.under_way: Counter[str] = Counter()
        self.gates: dict[str, asyncio.Event] = {}
        """Calls of these names wait until theirs is set."""
        self.holds: set[str] = set()
        """Calls of these names never end, on whatever loop."""
        self.lingers: set[str] = set()
        """Calls of these names take a few turns of the loop to end when they are cancelled."""
        self.held = threading.Event()
        """What `open` waits for on a loop that `gates` can't be set for, if `holds_open`."""
        self.holds_open = False
        self.errors: defaultdict[str, list[BaseException]] = defaultdict(list)
        """Calls of these names raise the first that is left, and do nothing."""
        self.next_due_ms: int | None = None
        """What each fetch says of it, if that isn't the truth."""
        self.loops: list[set[asyncio.AbstractEventLoop]] = []
        """Those that each driver was called on."""
        self._changed = asyncio.Event()
        self._waiter: asyncio.AbstractEventLoop | None = None

    @asynccontextmanager
    async def call(self, name: str, argument: Any = None) -> AsyncIterator[None]:
        self.overlaps |= {(name, other) for other in +self.under_way}
        self.begun.append((name, argument))
        self.under_way[name] += 1
        self._tell()
        try:
            await asyncio.sleep(0)  # every call lets others in
            if gate := self.gates.get(name):
                await gate.wait()
            if name in self.holds:
                await asyncio.Event().wait()
            if name == "open" and self.holds_open:
                await asyncio.to_thread(self.held.wait, DEADLINE)
            if self.errors[name]:
                raise self.errors[name].pop(0)
            yield
        except asyncio.CancelledError:
            self.cancelled.append(name)
            if name in self.lingers:
                for _ in range(10):
                    await asyncio.sleep(0)
            raise
        finally:
            self.under_way[name] -= 1
            self.ended.append(name)
            self._tell()

    def _tell(self) -> None:
        if self._waiter is not None:  # it may be on another loop
            self._waiter.call_soon_threadsafe(self._changed.set)

    def of(self, name: str) -> list[Any]:
        """The arguments of the calls of this name."""
        return [argument for called, argument in self.begun if called == name]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Return when it holds; it is looked at when a call begins or ends."""
        self._waiter = asyncio.get_running_loop()
        async with asyncio.timeout(DEADLINE):
            while True:
                self._changed.clear()
                if condition():
                    break
                await self._changed.wait()


class WatchedSubscription(SimpleSubscription):
    watch: Watch

    async def fetch(self, limit: int) -> Fetched:
        async with self.watch.call("fetch", limit):
            fetched = await super().fetch(limit)
            if gate := self.watch.gates.get("answer of fetch"):  # by then, its jobs are leased
                await gate.wait()
        if self.watch.next_due_ms is not None:
            return Fetched(fetched.deliveries, self.watch.next_due_ms)
        return fetched

    async def wait(self, timeout: float) -> None:
        async with self.watch.call("wait", timeout):
            await super().wait(timeout)

    async def settle(self, settlements: Sequence[Settlement]) -> Collection[Delivery]:
        async with self.watch.call("settle", list(settlements)):
            return await super().settle(settlements)

    async def close(self) -> None:
        async with self.watch.call("subscription.close"):
            await super().close()


class LeasedSubscription(WatchedSubscription):
    lease = timedelta(seconds=0.06)
    on_extend: Callable[[Collection[Delivery]], Collection[Delivery]]

    def extend(self, deliveries: Collection[Delivery]) -> Collection[Delivery]:
        return self.on_extend(deliveries)


class WatchedDriver(SimpleDriver):
    watch: Watch
    loops: set[asyncio.AbstractEventLoop]
    on_extend: Callable[[Collection[Delivery]], Collection[Delivery]] | None = None

    async def open(self) -> None:
        self.loops.add(asyncio.get_running_loop())
        async with self.watch.call("open"):
            await super().open()

    async def enqueue(self, entries: Sequence[Entry]) -> None:
        self.loops.add(asyncio.get_running_loop())
        async with self.watch.call("enqueue", list(entries)):
            await super().enqueue(entries)

    async def subscribe(self, queues: Sequence[str]) -> WatchedSubscription:
        async with self.watch.call("subscribe", queues):
            self._memory.take_back()
            kind = WatchedSubscription if self.on_extend is None else LeasedSubscription
            subscription = kind(self._memory, queues)
            subscription.watch = self.watch
            if isinstance(subscription, LeasedSubscription):
                subscription.on_extend = self.on_extend
            self._subscription = subscription
            return subscription

    async def counts(self) -> Mapping[str, QueueCounts]:
        self.loops.add(asyncio.get_running_loop())
        async with self.watch.call("counts"):
            return await super().counts()

    async def list_dead(self, limit: int, after: str | None) -> Sequence[StoredDeadLetter]:
        async with self.watch.call("list_dead"):
            return await super().list_dead(limit, after)

    async def close(self) -> Sequence[str]:
        self.loops.add(asyncio.get_running_loop())
        async with self.watch.call("close"):
            return await super().close()


def watched_worker(
    query: str = "", limits: Limits = offload_simple.ADAPTER.limits, **claims: bool
) -> tuple[DriverWorker, Watch]:
    """A worker, and what is known of its driver's calls."""
    config = read_config(parse_address(f"simple://?{query}"), ())
    watch = Watch()

    def make() -> WatchedDriver:
        driver = WatchedDriver(config)
        driver.watch, driver.loops = watch, set()
        watch.loops.append(driver.loops)
        return driver

    claims = replace(offload_simple.ADAPTER.claims, **claims)
    return DriverWorker(make(), config, claims, limits, make), watch
