"""A driver over plain SQL in one file, as it should be: the fourth base of variants."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import secrets
import sqlite3
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from offload import (
    Adapter,
    BackendUnavailableError,
    Claims,
    ConfigError,
    Delivery,
    Entry,
    Fetched,
    Limits,
    QueueCounts,
    Settlement,
    StoredDeadLetter,
    UsageError,
)
from offload.config import NAMESPACE, Address, Config
from offload_mutants.sql_tables import SqlTables

T = TypeVar("T")


def path_of(address: Address) -> Path:
    """The file at this address."""
    return Path(address.path.removeprefix("/"))


class OneThread:
    """A thread that does one thing after another: a connection belongs to one thread."""

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]
        self._work = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while (item := self._work.get()) is not None:
            future, function = item
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function())
                except sqlite3.DatabaseError as error:
                    future.set_exception(BackendUnavailableError(f"the file: {error}"))
                except BaseException as error:
                    future.set_exception(error)
            del item, future, function

    def submit(self, function: Callable[..., T], *args: Any) -> Future[T]:
        future: Future[T] = Future()
        self._work.put((future, lambda: function(*args)))
        return future

    def end(self) -> None:
        """End when all that was submitted is done."""
        self._work.put(None)

    def join(self) -> None:
        self._thread.join()


class SqlDriver(SqlTables):
    """The storing side. What is asked of the tables is done in a thread."""

    poll: float = 0.01
    """Seconds between two looks: other processes ring no bell."""

    def __init__(self, config: Config) -> None:
        address = config.address
        if not address.path or address.host or address.username is not None:
            raise ConfigError(f"a path is needed, and nothing else: {address}")
        super().__init__(path_of(address), config[NAMESPACE])
        self.subscription: SqlSubscription | None = None
        self.thread: OneThread | None = None

    async def open(self) -> None:
        if self.thread is not None:
            return
        self.thread = OneThread()
        try:
            await self.call(self.connect)
        except BaseException:
            self.part()
            raise

    async def close(self) -> Sequence[str]:
        if self.thread is not None:
            thread = self.thread
            await asyncio.shield(asyncio.wrap_future(self.part()))
            thread.join()
        return ()

    def part(self) -> Future[None]:
        """Have the connection closed, and its thread ended."""
        if self.thread is None:
            raise AssertionError("it is open")
        thread, self.thread = self.thread, None
        future = thread.submit(self.disconnect)
        thread.end()
        return future

    async def call(self, function: Callable[..., T], *args: Any) -> T:
        """Call this in the thread."""
        if self.thread is None:
            raise BackendUnavailableError("the file isn't open")
        return await asyncio.wrap_future(self.thread.submit(function, *args))

    async def enqueue(self, entries: Sequence[Entry]) -> None:
        await self.call(self.store, entries)
        self.wake()

    async def subscribe(self, queues: Sequence[str]) -> SqlSubscription:
        self.subscription = SqlSubscription(self, queues)
        return self.subscription

    def wake(self) -> None:
        if self.subscription is not None:
            self.subscription.arrived.set()

    async def counts(self) -> Mapping[str, QueueCounts]:
        return await self.call(self.count)

    async def list_dead(self, limit: int, after: str | None) -> Sequence[StoredDeadLetter]:
        if after is not None and not (after.isascii() and after.isdigit() and len(after) < 19):
            raise UsageError(f"after: {after!r} is not the cursor of a dead letter")
        return await self.call(self.letters, min(limit, 1 << 31), int(after or 0))

    async def show_dead(self, job_id: str) -> StoredDeadLetter | None:
        return await self.call(self.letter, job_id)

    async def requeue_dead(self, ids: Sequence[str]) -> Sequence[str]:
        found = await self.call(self.requeue, ids)
        self.wake()
        return found

    async def discard_dead(self, ids: Sequence[str]) -> Sequence[str]:
        return await self.call(self.discard, ids)


class SqlSubscription:
    """The consuming side."""

    def __init__(self, driver: SqlDriver, queues: Sequence[str]) -> None:
        self.driver = driver
        self.queues = queues
        self.lease = driver.lease
        self.owner = secrets.token_hex(8)
        self.arrived = asyncio.Event()

    async def fetch(self, limit: int) -> Fetched:
        self.arrived.clear()  # before it looks: what comes later is seen by the next wait
        return Fetched(await self.driver.call(self.driver.fetch, self.owner, self.queues, limit))

    async def wait(self, timeout: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(timeout, self.driver.poll)):
                await self.arrived.wait()

    async def settle(self, settlements: Sequence[Settlement]) -> Collection[Delivery]:
        return await self.driver.call(self.driver.settle, settlements)

    def extend(self, deliveries: Collection[Delivery]) -> Collection[Delivery]:
        if (thread := self.driver.thread) is None:
            return list(deliveries)
        held = thread.submit(self.driver.extend, [each.receipt for each in deliveries])
        ours = held.result(self.driver.patience + 1)
        return [each for each, is_ours in zip(deliveries, ours, strict=True) if not is_ours]

    async def close(self) -> None:
        await self.driver.call(self.driver.release_all, self.owner)


ADAPTER = Adapter(
    claims=Claims(
        fifo=True,
        durable=True,
        distributed=True,
        dead_letters=True,
        notes={"distributed": "one host"},
    ),
    limits=Limits(
        max_job_bytes=1 << 20,
        max_delay=timedelta(days=36_500),
        lateness=timedelta(milliseconds=50),
        recovery=SqlDriver.lease + timedelta(seconds=2),
    ),
    make=SqlDriver,
    file=path_of,
)
