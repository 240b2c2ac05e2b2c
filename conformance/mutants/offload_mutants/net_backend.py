"""A backend that is a server, and can go away alone: `python -m offload_mutants.net_backend PORT`.

Lines on its input start and kill it, each answered with a line when that is done. A kill ends
every connection in the middle of whatever it does, and leaves the jobs, as if they were on a disk.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import msgspec

from offload import Delivery, Fetched, Settlement
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
        self._numbers = itertools.count(1)

    async def answer(self, request: wire.AnyRequest) -> Any:
        """Do what is asked."""
        self._end_leases()
        match request:
            case wire.Enqueue():
                return await self._driver.enqueue(request.entries)
            case wire.Fetch():
                return await self._fetch(tuple(request.queues), request.limit)
            case wire.Settle():
                return [r for each in request.settlements for r in await self._settle(each)]
            case wire.Extend():
                return self._extend(request.receipts)
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

    def _end_leases(self) -> None:
        now = time.monotonic()
        for number, (job, ends) in list(self._leases.items()):
            if ends < now:
                del self._leases[number]
                del self._memory.running[job.id]
                self._memory.ready[job.queue].appendleft(job)

    async def _fetch(self, queues: tuple[str, ...], limit: int) -> Fetched:
        if queues not in self._subscriptions:  # it remembers whose turn it is
            self._subscriptions[queues] = SimpleSubscription(self._memory, queues)
        fetched = await self._subscriptions[queues].fetch(limit)
        return Fetched([self._lease(each) for each in fetched.deliveries], fetched.next_due_ms)

    def _lease(self, delivery: Delivery) -> Delivery:
        number = next(self._numbers)
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

    def _extend(self, receipts: Sequence[int]) -> list[int]:
        ends = time.monotonic() + self._lease_seconds
        for number in self._leases.keys() & set(receipts):
            self._leases[number] = (self._leases[number][0], ends)
        return [number for number in receipts if number not in self._leases]


class Backend:
    """The server."""

    def __init__(self, port: int, *, forgets: bool, lease: float) -> None:
        self._port = port
        self._forgets = forgets
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

    def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        conversation = asyncio.create_task(self._converse(reader, writer))
        self._conversations.add(conversation)
        conversation.add_done_callback(self._conversations.discard)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                request = await wire.receive(reader, wire.AnyRequest)
                answer = await self._stores[request.namespace].answer(request)
                writer.write(wire.framed(answer))
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()


async def main(port: str, *flags: str) -> None:
    """Do as the lines say, until there are no more."""
    lease = math.inf if wire.POPS in flags else wire.LEASE
    backend = Backend(int(port), forgets=wire.FORGETS in flags, lease=lease)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        await (backend.kill if line.strip() == "kill" else backend.start)()
        print("done", flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
