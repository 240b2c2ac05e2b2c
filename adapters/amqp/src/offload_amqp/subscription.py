"""The consuming side, as the engine sees it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Collection, Sequence

from offload import Delivery, Fetched, Settlement, Verdict
from offload_amqp.connection import Broker
from offload_amqp.consumer import Consumer
from offload_amqp.names import Names
from offload_amqp.thread import LoopThread
from offload_amqp.topology import Topology

WIDEN_SECONDS = 0.05
"""How often more may be taken ahead."""


class AmqpSubscription:
    """What the consumer's thread has at hand."""

    def __init__(
        self,
        broker: Broker,
        names: Names,
        topology: Topology,
        queues: Sequence[str],
        concurrency: int,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._arrived = asyncio.Event()
        self._is_told = False
        self._thread = LoopThread()
        self._consumer = Consumer(broker, names, topology, queues, concurrency, self._tell)
        self._turn = 0
        self._next_widening = 0.0
        self._widening: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to consume.

        Raises:
            BackendError: the broker is away, or a queue is another than it should be.
        """
        try:
            await self._thread.call(self._consumer.start())
        except BaseException:
            await self._thread.end()
            raise

    def _tell(self) -> None:
        """Called in the consumer's thread."""
        if not self._is_told:
            self._is_told = True
            with contextlib.suppress(RuntimeError):  # the loop was closed without a stop
                self._loop.call_soon_threadsafe(self._arrived.set)

    async def fetch(self, limit: int) -> Fetched:
        consumer = self._consumer
        self._arrived.clear()
        self._is_told = False
        consumer.last_call = time.monotonic()
        deliveries = self._take(limit)
        if not deliveries and consumer.error is not None:
            raise consumer.error
        if len(deliveries) < limit:
            self._widen(limit)
        return Fetched(deliveries)

    def _take(self, limit: int) -> list[Delivery]:
        """From each queue in turn, as much as there is of all."""
        self._turn += 1
        waiting = list(self._consumer.ready.values())
        first = self._turn % len(waiting)
        waiting = waiting[first:] + waiting[:first]
        deliveries: list[Delivery] = []
        while len(deliveries) < limit and any(waiting):
            for each in waiting:
                if len(deliveries) < limit:
                    with contextlib.suppress(IndexError):  # the connection was lost just now
                        deliveries.append(each.popleft())
        return deliveries

    def _widen(self, limit: int) -> None:
        now = time.monotonic()
        is_time = self._consumer.is_paused or now >= self._next_widening
        if is_time and (self._widening is None or self._widening.done()):
            self._next_widening = now + WIDEN_SECONDS
            self._widening = asyncio.create_task(
                self._thread.call(self._consumer.resize(limit)), name="offload-amqp-widen"
            )

    async def wait(self, timeout: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._arrived.wait()

    async def settle(self, settlements: Sequence[Settlement]) -> Collection[Delivery]:
        if any(each.verdict is not Verdict.RELEASE for each in settlements):
            self._consumer.last_call = time.monotonic()
        return await self._thread.call(self._consumer.settle(settlements))

    async def close(self) -> None:
        try:
            if self._widening is not None and not self._widening.done():
                self._widening.cancel()
                await asyncio.wait((self._widening,))
            await self._thread.call(self._consumer.stop())
        finally:
            await self._thread.end()
