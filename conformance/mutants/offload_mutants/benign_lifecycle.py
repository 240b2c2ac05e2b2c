"""Adapters that are unusual and right, in how they start, stop, register and perform."""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import uuid
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any

import msgspec

from offload import Args, Delivery, Entry, Fetched, Settlement, StopReport
from offload.config import Config, Option
from offload.engine import DriverWorker
from offload_mutants.mutants_conf import TakesAPassword, offering
from offload_mutants.registry import benign
from offload_mutants.wrapper import Wrapper
from offload_simple import ADAPTER
from offload_simple.driver import SimpleDriver
from offload_simple.subscription import SimpleSubscription
from offload_sqlite.driver import SqliteDriver


@benign("LIFE", "PERF")
class FarAway(SimpleDriver):
    """Takes its time to connect, to begin and to close, as a server on another continent."""

    async def open(self) -> None:
        await asyncio.sleep(0.02)

    async def subscribe(self, queues: Sequence[str]) -> SimpleSubscription:
        await asyncio.sleep(0.02)
        return await super().subscribe(queues)

    async def close(self) -> Sequence[str]:
        await asyncio.sleep(0.02)
        return await super().close()


class Hesitant(SimpleSubscription):
    """Fetches one job at a time, wakes for nothing, and settles slowly."""

    async def fetch(self, limit: int) -> Fetched:
        return await super().fetch(min(limit, 1))

    async def wait(self, timeout: float) -> None:
        await super().wait(min(timeout, 0.003))

    async def settle(self, settlements: Sequence[Settlement]) -> Collection[Delivery]:
        await asyncio.sleep(0.002)
        return await super().settle(settlements)


@benign("LIFE", "CONC", "FIFO")
class FetchesOneByOne(SimpleDriver):
    """Polls, and takes one job at a time."""

    async def subscribe(self, queues: Sequence[str]) -> SimpleSubscription:
        self._subscription = Hesitant(self._memory, queues)
        return self._subscription


@benign("PERF", "DEAD")
class HasIdsOfItsOwn(DriverWorker):
    """Gives ids in no order, and of another form."""

    def __init__(self, config: Config) -> None:
        super().__init__(SimpleDriver(config), config, ADAPTER.claims, ADAPTER.limits)

    def _make_entry(self, *args: Any) -> Entry:
        return msgspec.structs.replace(super()._make_entry(*args), id=f"{{{uuid.uuid4()}}} é")


@benign("REG", "ARGS", "FAIL")
class WrapsItsHandlers(Wrapper):
    """Registers functions of its own around the handlers, as middleware does."""

    def change_handler(self, name: str, handler: Any) -> Any:
        @functools.wraps(handler)
        async def call_async(args: Args) -> None:
            await asyncio.sleep(0)
            await handler(args)

        @functools.wraps(handler)
        def call_plain(args: Args) -> None:
            handler(args)

        wrapped = call_async if inspect.iscoroutinefunction(handler) else call_plain
        return wrapped if callable(handler) else handler


@benign("LIFE")
class StopsInATask(Wrapper):
    """Calls its client library in tasks that it shields."""

    async def start(self) -> None:
        await self._shielded(super().start)

    async def stop(self) -> StopReport:
        report: StopReport = await self._shielded(super().stop)
        return report

    async def _shielded(self, call: Callable[[], Awaitable[Any]]) -> Any:
        task = asyncio.ensure_future(call())
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.cancel()
            raise


@benign("LIFE")
class HoldsAFileWhileOpen(SimpleDriver):
    """Connects anew at each opening, and has something to close."""

    async def open(self) -> None:
        self._file = os.open(os.devnull, os.O_RDONLY)

    async def close(self) -> Sequence[str]:
        os.close(self._file)
        return await super().close()


@offering(Option("token", "", str, secret=True))
@benign("CONF")
class LetsAnybodyIn(TakesAPassword):
    """Takes a user and a password, and an option that is a secret, and shows none of them."""


@benign("LIFE", "PERF", base="sqlite")
class SlowDisk(SqliteDriver):
    """Takes three milliseconds more to store, and ten to open and to close."""

    async def open(self) -> None:
        await asyncio.sleep(0.01)
        await super().open()

    async def enqueue(self, entries: Sequence[Entry]) -> None:
        await asyncio.sleep(0.003)
        await super().enqueue(entries)

    async def close(self) -> Sequence[str]:
        await asyncio.sleep(0.01)
        return await super().close()
