"""A backend that is a server, and can go away alone: `python -m offload_mutants.net_backend PORT`.

Lines on its input start and kill it, each answered with a line when that is done. A kill ends
every connection in the middle of whatever it does, and leaves the jobs, as if they were on a disk.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import sys
import time
from collections import defaultdict, deque
from collections.abc import Sequence
from typing import Any

import msgspec

from offload import Delivery, Fetched, Settlement, StoredDeadLetter
from offload.config import parse_address, read_config
from offload_mutants import net_wire as wire
from offload_simple.driver import SimpleDriver
from offload_simple.memory import StoredJob
from offload_simple.subscription import SimpleSubscription


class Store:
    """The jobs of one namespace, and the leases on those that were fetched."""

    def __init__(self, lease: float) -> None:
        self._lease_seconds = lease
        self._driver = SimpleDriver(read_config(parse_address("simple://"), ()))
        self._memory = self._driver._memory
        self._subscriptions: dict[tuple[str, ...], SimpleSubscription] = {}
        self._leases: dict[int, tuple[StoredJob, float]] = {}
        self._takers: dict[int, str] = {}
        self._numbers = itertools.count(1)
        self._accepted: dict[str, float] = {}

    async def answer(self, request: wire.AnyRequest) -> Any:
        """Do what is asked."""
        self._end_leases()
        match request:
            case wire.Enqueue():
                now = time.monotonic()
                self._accepted = {k: at for k, at in self._accepted.items() if at > now - wire.LAG}
                self._accepted.update((entry.id, now) for entry in request.entries)
                return await self._driver.enqueue(request.entries)
            case wire.Fetch():
                return await self._fetch(tuple(request.queues), request.limit, request.worker)
            case wire.Settle():
                return [r for each in request.settlements for r in await self._settle(each)]
            case wire.Extend():
                return self._extend(request.receipts, request.worker)
            case wire.Count():
                return await self._driver.counts()
            case wire.ListDead():
                return await self._driver.list_dead(request.limit, request.after)
            case wire.ShowDead():
                return await self._driver.show_dead(request.job_id)
            case wire.RequeueDead():
                return await self._driver.requeue_dead(request.ids)
            case wire.DiscardDead():
                return await self._driver.discard_dead(request.ids)

    def forget_the_last(self) -> None:
        """Lose what would have been written in a moment."""
        since = time.monotonic() - wire.LAG
        lost = {job_id for job_id, at in self._accepted.items() if at > since}
        memory = self._memory
        memory.scheduled[:] = [each for each in memory.scheduled if each[2].id not in lost]
        heapq.heapify(memory.scheduled)
        for queue, ready in memory.ready.items():
            memory.ready[queue] = deque(job for job in ready if job.id not in lost)

    def _end_leases(self) -> None:
        now = time.monotonic()
        for number, (job, ends) in list(self._leases.items()):
            if ends < now:
                del self._leases[number]
                del self._memory.running[job.id]
                self._memory.ready[job.queue].appendleft(job)

    async def _fetch(self, queues: tuple[str, ...], limit: int, worker: str) -> Fetched:
        if queues not in self._subscriptions:  # it remembers whose turn it is
            self._subscriptions[queues] = SimpleSubscription(self._memory, queues)
        fetched = await self._subscriptions[queues].fetch(limit)
        leased = [self._lease(each, worker) for each in fetched.deliveries]
        return Fetched(leased, fetched.next_due_ms)

    def _lease(self, delivery: Delivery, worker: str) -> Delivery:
        number = next(self._numbers)
        self._takers[number] = worker
        self._leases[number] = (delivery.receipt, time.monotonic() + self._lease_seconds)
        return msgspec.structs.replace(delivery, receipt=number)

    async def _settle(self, settlement: Settlement) -> list[int]:
        number = settlement.delivery.receipt
        if number not in self._leases:
            return [number]
        job, _ = self._leases.pop(number)
        delivery = msgspec.structs.replace(settlement.delivery, receipt=job)
        settlement = msgspec.structs.replace(settlement, delivery=delivery)
        await SimpleSubscription(self._memory, ()).settle([settlement])
        return []

    def read(self) -> wire.Content:
        """What is on the disk."""
        memory = self._memory
        leased = [job for job, _ in self._leases.values()]
        ready = [job for _, jobs in sorted(memory.ready.items()) for job in jobs]
        scheduled = [job for *_, job in sorted(memory.scheduled, key=lambda each: each[:2])]
        jobs = [
            wire.KeptJob(
                job.id, job.queue, job.body.decode(), job.due_ms, job.attempt, job in leased
            )
            for job in (*leased, *ready, *scheduled)
        ]
        dead = [
            wire.KeptLetter(
                each.id,
                each.queue,
                each.body.decode(),
                each.died_ms,
                each.failure,
            )
            for each in memory.dead.values()
        ]
        return wire.Content(jobs, dead)

    def lay(self, content: wire.Content) -> None:
        """Put that on the disk."""
        memory = self._memory
        for each in content.jobs:
            job = StoredJob(each.id, each.queue, each.body.encode(), each.due_ms, each.attempt)
            if each.is_leased:
                memory.running[job.id] = job
                number = next(self._numbers)
                self._takers[number] = ""
                self._leases[number] = (job, 0.0)
            else:
                memory._push(job)  # what is due becomes ready by itself
        for letter in content.dead:
            memory.dead[letter.id] = StoredDeadLetter(
                letter.id,
                letter.queue,
                letter.body.encode(),
                letter.died_ms,
                letter.failure,
                str(next(memory._sequence)),
            )

    def _extend(self, receipts: Sequence[int], worker: str) -> list[int]:
        ends = time.monotonic() + self._lease_seconds
        of_worker = {number for number in self._leases if worker and self._takers[number] == worker}
        for number in self._leases.keys() & set(receipts) | of_worker:
            self._leases[number] = (self._leases[number][0], ends)
        return [number for number in receipts if number not in self._leases]


class Backend:
    """The server."""

    def __init__(self, port: int, *, forgets: bool, lags: bool, lease: float) -> None:
        self._port = port
        self._forgets, self._lags = forgets, lags
        self._stores: defaultdict[str, Store] = defaultdict(lambda: Store(lease))
        self._server: asyncio.Server | None = None
        self._conversations: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen, if it doesn't."""
        if self._server is None:
            self._server = await asyncio.start_server(self._greet, "127.0.0.1", self._port)

    async def kill(self) -> None:
        """Be gone, at once."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for conversation in self._conversations:
            conversation.cancel()
        if self._conversations:
            await asyncio.wait(self._conversations)
        if self._forgets:
            self._stores.clear()
        if self._lags:
            for store in self._stores.values():
                store.forget_the_last()

    def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        conversation = asyncio.create_task(self._converse(reader, writer))
        self._conversations.add(conversation)
        conversation.add_done_callback(self._conversations.discard)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                request = await wire.receive(reader, wire.AnyRequest)
                store = self._stores[request.namespace]
                match request:
                    case wire.Read():
                        answer = store.read()
                    case wire.Lay():
                        answer = store.lay(request.content)
                    case _:
                        answer = await store.answer(request)
                writer.write(wire.framed(answer))
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()


async def main(port: str, *flags: str) -> None:
    """Do as the lines say, until there are no more."""
    lease = math.inf if wire.POPS in flags else wire.LEASE
    forgets, lags = wire.FORGETS in flags, wire.LAGS in flags
    backend = Backend(int(port), forgets=forgets, lags=lags, lease=lease)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        await (backend.kill if line.strip() == "kill" else backend.start)()
        print("done", flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
