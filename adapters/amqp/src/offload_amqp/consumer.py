"""The consuming side, as it lives in its own thread."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence

from aiormq.abc import DeliveredMessage

from offload import BackendError, BackendUnavailableError, Delivery, Entry, Settlement, Verdict
from offload_amqp.connection import Broker, Line
from offload_amqp.generation import HELD_AT_MOST, Generation, Receipt
from offload_amqp.holder import Holder
from offload_amqp.messages import (
    DUE,
    HOLD,
    ID,
    RUNS,
    Message,
    delivery_of,
    failure_headers,
    headers_in,
    headers_of,
    now_ms,
    number_in,
)
from offload_amqp.names import Names
from offload_amqp.publisher import Publisher
from offload_amqp.routing import Router
from offload_amqp.topology import Topology

log = logging.getLogger("offload")

MOST_AHEAD = 500
"""Deliveries of one queue that are unsettled at most."""
STALE_SECONDS = 0.2
"""What nobody fetches for so long goes back for others to take."""
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0
"""Seconds between two tries to connect."""


class Consumer:
    """Keeps a generation alive, and what it has delivered at hand."""

    def __init__(
        self,
        broker: Broker,
        names: Names,
        topology: Topology,
        queues: Sequence[str],
        concurrency: int,
        notify: Callable[[], None],
    ) -> None:
        """`notify` is called, in this thread, when there is something to fetch."""
        self._broker = broker
        self._names = names
        self._topology = topology
        self._queues = queues
        self._least = self._prefetch = min(concurrency, MOST_AHEAD)
        self._notify = notify
        self.ready: dict[str, deque[Delivery]] = {queue: deque() for queue in queues}
        self.error: BackendError | None = None
        """Why nothing is consumed just now."""
        self.last_fetch = 0.0
        self.is_paused = False
        """Whether nothing new is taken, since nobody fetched what there was."""
        self._due: list[tuple[Receipt, Message]] = []
        self._something_is_due = asyncio.Event()

    async def start(self) -> None:
        """Connect, and begin to consume.

        Raises:
            BackendError: the broker is away, or a queue is another than it should be.
        """
        self._holder = Holder(self._take_due)
        self._publisher = Publisher(Line(self._broker, confirms=True), self._topology)
        self._router = Router(self._names, self._publisher)
        self._generation = await self._begin()
        self._tasks = [
            asyncio.create_task(self._supervise(), name="offload-amqp-supervisor"),
            asyncio.create_task(self._give_back_stale(), name="offload-amqp-stale"),
            asyncio.create_task(self._hand_over(), name="offload-amqp-due"),
        ]

    async def _begin(self) -> Generation:
        generation = Generation(self._broker, self._topology)
        await generation.connect(self._queues)
        try:
            await self._consume_work(generation)
            soon = {queue: self._names.soon(queue) for queue in self._queues}
            await generation.consume(generation.soon, soon, HELD_AT_MOST, self._on_soon)
        except BaseException:
            await generation.close()
            raise
        return generation

    async def _consume_work(self, generation: Generation) -> None:
        work = {queue: self._names.work(queue) for queue in self._queues}
        await generation.consume(generation.work, work, self._prefetch, self._on_work)

    async def _supervise(self) -> None:
        while True:
            await self._generation.lost.wait()
            self.error = BackendUnavailableError(f"{self._broker.where} is away: disconnected")
            self._holder.clear()
            self._due.clear()
            for waiting in self.ready.values():
                waiting.clear()
            self._notify()
            await self._generation.close()
            self._generation = await self._begin_again()
            self.error = None
            self.is_paused = False
            self._notify()

    async def _begin_again(self) -> Generation:
        pause = FIRST_PAUSE
        while True:
            try:
                return await self._begin()
            except BackendError as error:
                log.warning("no jobs can be consumed now: %s", error)
                self.error = error
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    # -- deliveries ------------------------------------------------------------

    async def _on_work(self, source: Generation, queue: str, message: DeliveredMessage) -> None:
        self.ready[queue].append(delivery_of(message, queue, source.receipt(message)))
        self._notify()

    async def _on_soon(self, source: Generation, queue: str, message: DeliveredMessage) -> None:
        headers = headers_in(message)
        kept = {name: headers[name] for name in (ID, RUNS, DUE) if name in headers}
        copy = Message("", self._names.work(queue), message.body, kept, queue)
        held = (source.receipt(message), copy)
        self._holder.hold(held, number_in(headers, HOLD), number_in(headers, DUE))

    def _take_due(self, held: tuple[Receipt, Message]) -> None:
        self._due.append(held)
        self._something_is_due.set()

    async def _hand_over(self) -> None:
        """Move what is due to the queue of what is ready.

        Were it run from where it is, a holder that dies before it is due would
        count as a run.
        """
        while True:
            await self._something_is_due.wait()
            self._something_is_due.clear()
            due, self._due = self._due, []
            try:
                await self._move(due)
            except BackendError as error:
                log.warning("%d jobs that are due can't be moved yet: %s", len(due), error)
                self._due[:0] = due
                self._something_is_due.set()
                await asyncio.sleep(LONGEST_PAUSE)

    async def _move(self, due: Sequence[tuple[Receipt, Message]]) -> None:
        generation = self._generation
        ours = [(receipt, copy) for receipt, copy in due if receipt.generation is generation]
        if ours:
            await self._publisher.publish([copy for _, copy in ours])
            with contextlib.suppress(BackendError):
                await generation.acknowledge([receipt for receipt, _ in ours])

    # -- how much is taken ahead -------------------------------------------------

    async def widen(self, wanted: int) -> None:
        """Take more ahead: jobs are faster than the way to the broker and back."""
        await self._consume_anew(min(MOST_AHEAD, max(wanted, self._prefetch)))

    async def _consume_anew(self, prefetch: int) -> None:
        generation = self._generation
        if generation.lost.is_set() or (prefetch == self._prefetch and not self.is_paused):
            return
        self._prefetch, self.is_paused = prefetch, False
        try:
            await generation.cancel(generation.work)
            await self._consume_work(generation)
        except BackendError:
            generation.lost.set()

    async def _give_back_stale(self) -> None:
        """Consume no more while nobody fetches, and give back what nobody fetched."""
        while True:
            await asyncio.sleep(STALE_SECONDS)
            stale = time.monotonic() - self.last_fetch > STALE_SECONDS
            if not stale or not any(self.ready.values()) or self._generation.lost.is_set():
                continue
            self.is_paused = True
            self._prefetch = self._least
            with contextlib.suppress(BackendError):
                await self._generation.cancel(self._generation.work)
                await self._release_ready()

    async def _release_ready(self) -> None:
        releases: list[Settlement] = []
        for waiting in self.ready.values():
            with contextlib.suppress(IndexError):  # the other thread takes some just now
                while True:
                    releases.append(Settlement(waiting.popleft(), Verdict.RELEASE))
        try:
            await self.settle(releases)
        except BackendError:
            for release in releases:
                self.ready[release.delivery.queue].append(release.delivery)
            raise

    # -- settling --------------------------------------------------------------

    async def settle(self, settlements: Sequence[Settlement]) -> list[Delivery]:
        """Carry out the verdicts; return the deliveries that are the broker's again.

        What isn't done for good is published anew, and confirmed, before it is acknowledged.
        """
        ours: list[Settlement] = []
        foreign: list[Settlement] = []
        for each in settlements:
            is_ours = not each.delivery.receipt.generation.lost.is_set()
            (ours if is_ours else foreign).append(each)
        await self._copy([each for each in ours if not each.delivery.receipt.is_copied])
        receipts: list[Receipt] = [each.delivery.receipt for each in ours]
        for generation in {receipt.generation for receipt in receipts}:
            try:
                await generation.acknowledge(receipts)
            except BackendError:
                generation.lost.set()
        foreign += (each for each in ours if each.delivery.receipt.generation.lost.is_set())
        return [each.delivery for each in foreign]

    async def _copy(self, settlements: Sequence[Settlement]) -> None:
        retries = [each for each in settlements if each.verdict is Verdict.RETRY]
        others = [self._message(each) for each in settlements]
        messages = [message for message in others if message is not None]
        if retries:
            entries = [_entry_of(each) for each in retries]
            await self._router.send(entries, [each.delivery.attempt for each in retries])
        if messages:
            await self._publisher.publish(messages)
        for each in settlements:
            each.delivery.receipt.is_copied = True

    def _message(self, settlement: Settlement) -> Message | None:
        delivery = settlement.delivery
        if settlement.verdict is Verdict.RELEASE:
            headers = headers_of(delivery.id, delivery.attempt - 1, delivery.due_ms)
            work = self._names.work(delivery.queue)
            return Message("", work, delivery.body, headers, delivery.queue)
        if settlement.verdict is Verdict.DEAD_LETTER:
            headers = headers_of(delivery.id, 0, now_ms()) | failure_headers(settlement.failure)
            dead = self._names.dead(delivery.queue)
            return Message("", dead, delivery.body, headers, delivery.queue)
        return None

    # -- the end ---------------------------------------------------------------

    async def stop(self) -> None:
        """Stop consuming, give back what was taken and not settled, and disconnect."""
        for task in self._tasks:
            task.cancel()
        try:
            if not self._generation.lost.is_set():
                await self._generation.cancel(self._generation.work)
                await self._generation.cancel(self._generation.soon)
                await self._release_ready()
        except BackendError as error:
            log.warning("what was taken goes back when the connection ends: %s", error)
        finally:
            await self._generation.close()
            await self._publisher.close()


def _entry_of(settlement: Settlement) -> Entry:
    delivery = settlement.delivery
    return Entry(delivery.id, delivery.queue, delivery.body, max(1, settlement.delay_ms))
