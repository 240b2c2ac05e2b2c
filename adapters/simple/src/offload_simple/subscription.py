"""The consuming side of the memory."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence

from offload import Delivery, Failure, Fetched, Settlement, Verdict
from offload_simple.memory import Memory, StoredJob, now_ms

_ACKNOWLEDGE = Verdict.ACKNOWLEDGE  # looked up once, not for each job


class SimpleSubscription:
    """Takes jobs for the one worker there is."""

    def __init__(self, memory: Memory, queues: Sequence[str]) -> None:
        self._memory = memory
        self._queues = queues
        self._turn = 0
        self._arrived: asyncio.Future[None] | None = None

    async def fetch(self, limit: int) -> Fetched:
        memory = self._memory
        if memory.scheduled:
            memory.promote()
        deliveries: list[Delivery] = []
        busy = [queue for queue in self._queues if memory.ready[queue]]
        self._turn += 1
        while busy and len(deliveries) < limit:
            first = self._turn % len(busy)
            share = max(1, (limit - len(deliveries)) // len(busy))
            for queue in busy[first:] + busy[:first]:
                self._take(queue, min(share, limit - len(deliveries)), deliveries)
            busy = [queue for queue in busy if memory.ready[queue]]
        if deliveries or not memory.scheduled:
            return Fetched(deliveries)
        return Fetched(deliveries, max(0, memory.scheduled[0][0] - now_ms()))

    def _take(self, queue: str, limit: int, deliveries: list[Delivery]) -> None:
        ready, running = self._memory.ready[queue], self._memory.running
        for _ in range(min(limit, len(ready))):
            job = ready.popleft()
            job.attempt += 1
            running[job.id] = job
            deliveries.append(Delivery(job.id, queue, job.body, job.attempt, job.due_ms, job))

    async def wait(self, timeout: float) -> None:
        if any(self._memory.ready[queue] for queue in self._queues):
            return
        self._arrived = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(timeout):
                await self._arrived
        except TimeoutError:
            pass
        finally:
            self._arrived = None

    def wake(self) -> None:
        """End a wait: something comes, or is due at another time."""
        if self._arrived is not None:
            # Not at once: a future whose end can't be told, deep in a recursion of the caller,
            # never wakes anybody.
            self._arrived.get_loop().call_soon(_end, self._arrived)
            self._arrived = None

    async def settle(self, settlements: Sequence[Settlement]) -> Collection[Delivery]:
        running = self._memory.running
        foreign: list[Delivery] = []
        for settlement in settlements:
            delivery = settlement.delivery
            job = running.get(delivery.id)
            if job is None or job is not delivery.receipt or job.attempt != delivery.attempt:
                foreign.append(delivery)
                continue
            del running[job.id]
            if settlement.verdict is not _ACKNOWLEDGE:
                self._keep(job, settlement)
        return foreign

    def _keep(self, job: StoredJob, settlement: Settlement) -> None:
        memory, verdict = self._memory, settlement.verdict
        if verdict is Verdict.RETRY:
            memory.schedule(job, now_ms(), settlement.delay_ms)
            self.wake()
        elif verdict is Verdict.DEAD_LETTER:
            memory.bury(job, settlement.failure or Failure(""))
        else:
            job.attempt -= 1
            memory.ready[job.queue].appendleft(job)

    async def close(self) -> None:
        """The jobs stay in the driver's memory."""


def _end(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
