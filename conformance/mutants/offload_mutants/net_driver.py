"""A driver for the backend of `net_backend`, as it should be: the third base of variants."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from typing import Any, ClassVar

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
)
from offload.config import NAMESPACE, Config
from offload_mutants import net_wire as wire

POLL = 0.01
"""Seconds between two looks at the backend."""


class NetDriver:
    """The client's side: one connection, made anew when it was lost."""

    backend: ClassVar[tuple[str, ...]] = ()
    """Arguments of the backend that this driver is meant for."""

    timeout: float = 2.0
    """Seconds within which the backend answers, or is away."""

    def __init__(self, config: Config) -> None:
        address = config.address
        if not address.host or not address.port or address.path or address.username is not None:
            raise ConfigError(f"a host and a port are needed, and nothing else: {address}")
        self.address = (address.host, address.port)
        self.namespace = config[NAMESPACE]
        self._connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._turn = asyncio.Lock()

    async def open(self) -> None:
        try:
            await self.counts()  # a backend that accepts a connection may still be silent
        except BackendUnavailableError as error:
            raise BackendUnavailableError(str(error)) from error

    async def connect(self) -> None:
        """Connect, unless there is a connection."""
        if self._connection is not None:
            return
        try:
            async with asyncio.timeout(self.timeout):
                self._connection = await asyncio.open_connection(*self.address)
        except OSError as error:  # TimeoutError is one
            raise BackendUnavailableError(f"can't connect: {error!r}") from error

    async def close(self) -> Sequence[str]:
        await self.disconnect()
        return ()

    async def disconnect(self) -> None:
        """Leave nothing of the connection."""
        if self._connection is not None:
            _, writer = self._connection
            self._connection = None
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def call(self, request: wire.AnyRequest) -> Any:
        """Ask the backend, and wait for its answer."""
        async with self._turn:
            await self.connect()
            try:
                async with asyncio.timeout(self.patience(request)):
                    return await self.exchange(request)
            except (OSError, asyncio.IncompleteReadError) as error:
                await self.disconnect()
                raise BackendUnavailableError(repr(error), maybe_stored=True) from error
            except asyncio.CancelledError:  # its answer would be taken for that of the next
                await self.disconnect()
                raise

    def patience(self, request: wire.AnyRequest) -> float | None:
        """Seconds to wait for the answer to this."""
        return self.timeout

    async def exchange(self, request: wire.AnyRequest) -> Any:
        """Send a request over the connection, and receive its answer."""
        if self._connection is None:
            raise AssertionError("connect was called before")
        reader, writer = self._connection
        writer.write(wire.framed(request))
        await writer.drain()
        return await wire.receive(reader, wire.ANSWERS[type(request)])

    async def enqueue(self, entries: Sequence[Entry]) -> None:
        await self.call(wire.Enqueue(self.namespace, entries))

    async def subscribe(self, queues: Sequence[str]) -> NetSubscription:
        return NetSubscription(self, queues)

    async def counts(self) -> Mapping[str, QueueCounts]:
        counts: dict[str, QueueCounts] = await self.call(wire.Count(self.namespace))
        return counts

    async def list_dead(self, limit: int, after: str | None) -> Sequence[StoredDeadLetter]:
        letters: list[StoredDeadLetter] = await self.call(
            wire.ListDead(self.namespace, limit, after)
        )
        return letters

    async def show_dead(self, job_id: str) -> StoredDeadLetter | None:
        letter: StoredDeadLetter | None = await self.call(wire.ShowDead(self.namespace, job_id))
        return letter

    async def requeue_dead(self, ids: Sequence[str]) -> Sequence[str]:
        found: list[str] = await self.call(wire.RequeueDead(self.namespace, ids))
        return found

    async def discard_dead(self, ids: Sequence[str]) -> Sequence[str]:
        found: list[str] = await self.call(wire.DiscardDead(self.namespace, ids))
        return found


class NetSubscription:
    """The consuming side: it looks every few milliseconds."""

    lease = timedelta(seconds=wire.LEASE)

    def __init__(self, driver: NetDriver, queues: Sequence[str]) -> None:
        self._driver = driver
        self._queues = queues

    async def fetch(self, limit: int) -> Fetched:
        request = wire.Fetch(self._driver.namespace, self._queues, limit)
        fetched: Fetched = await self._driver.call(request)
        return fetched

    async def wait(self, timeout: float) -> None:
        await asyncio.sleep(min(timeout, POLL))

    async def settle(self, settlements: Sequence[Settlement]) -> Collection[Delivery]:
        request = wire.Settle(self._driver.namespace, settlements)
        foreign = set(await self._driver.call(request))
        return [s.delivery for s in settlements if s.delivery.receipt in foreign]

    def extend(self, deliveries: Collection[Delivery]) -> Collection[Delivery]:
        receipts = [each.receipt for each in deliveries]
        request = wire.Extend(self._driver.namespace, receipts)
        lost = set(wire.ask(self._driver.address, request, self._driver.timeout))
        return [each for each in deliveries if each.receipt in lost]

    async def close(self) -> None:
        """Nothing of its own."""


ADAPTER = Adapter(
    claims=Claims(fifo=True, durable=True, distributed=True, dead_letters=True),
    limits=Limits(
        max_job_bytes=1 << 20,
        max_delay=timedelta(days=36_500),
        lateness=timedelta(milliseconds=50),
        recovery=timedelta(seconds=wire.LEASE + 1),
        reconnect=timedelta(seconds=4),
    ),
    make=NetDriver,
)
