"""The consuming side, as it lives in its own thread."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence

from offload import BackendError, Delivery, Settlement, Verdict
from offload_amqp.connection import Broker, Line
from offload_amqp.errors import MissingError, translate, translated
from offload_amqp.feed import Feed, Receipt
from offload_amqp.generation import Generation
from offload_amqp.holder import Holder
from offload_amqp.ledger import Ledger, run_of, run_of_delivery
from offload_amqp.messages import HOLD, Message, deliveries_before, due_in, number_in
from offload_amqp.names import Names
from offload_amqp.publisher import Publisher
from offload_amqp.routing import AHEAD_MS, HELD_MS, Router
from offload_amqp.topology import Topology
from offload_amqp.wire import Incoming, WireError

log = logging.getLogger("offload")

MOST_AHEAD = 65_535
"""Deliveries of one queue that are unsettled at most: AMQP has two bytes for it."""
REMINDER_SECONDS = 60.0
"""Time between two warnings that due jobs can't be moved."""
STALE_SECONDS = 0.2
"""Seconds without a call of the engine after which jobs that wait for it go back."""
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0
"""Seconds between two tries to connect."""
STEADY_SECONDS = 10.0
"""How long a connection has to live before the pause begins small again."""
MISSING_PAUSE = 5.0
"""The same while a queue is missing that somebody else has to declare."""


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
        self._prefetch = min(concurrency, MOST_AHEAD)
        self._notify = notify
        self.ready: dict[str, deque[Delivery]] = {queue: deque() for queue in queues}
        self.error: BackendError | None = None
        """Why nothing is consumed just now."""
        self.last_call = 0.0
        """When the engine last fetched, or settled a job that had ended: it isn't stuck then."""
        self._ledger = Ledger()
        self._acknowledging: set[asyncio.Task[None]] = set()
        self._pause = FIRST_PAUSE
        self._began = 0.0
        """When the generation began to consume."""
        self._almost_due: list[tuple[Receipt, Message]] = []
        self._something_is_due = asyncio.Event()
        self._changing = asyncio.Lock()
        """Held while it changes how much is taken ahead,"""
        self._moving = asyncio.Lock()
        """and this one while jobs that are almost due change their queue."""

    async def start(self) -> None:
        """Connect, and begin to consume.

        Raises:
            BackendError: the broker is away, or a queue is another than it should be.
        """
        self._held = Holder(self._take_due)
        self._arrived = Holder(self._take_ready)
        self._publisher = Publisher(Line(self._broker, confirms=True), self._topology)
        self._router = Router(self._names)
        try:
            await self._publisher.ensure(self._queues[0])  # the first retry needn't wait for it
            self._generation = await self._begin()
        except BaseException:
            await self._publisher.close()
            raise
        self._tasks = [
            asyncio.create_task(self._supervise(), name="offload-amqp-supervisor"),
            asyncio.create_task(self._give_back_stale(), name="offload-amqp-stale"),
            asyncio.create_task(self._hand_over(), name="offload-amqp-due"),
        ]

    async def _begin(self) -> Generation:
        generation = Generation(self._broker, self._names, self._topology)
        try:
            await generation.begin(self._queues, self._prefetch, self._on_work, self._on_soon)
        except BaseException:
            self._lose_all(generation)  # the first jobs come before it has begun altogether
            raise
        self._began = time.monotonic()
        return generation

    async def _supervise(self) -> None:
        while True:
            await self._generation.lost.wait()
            reason = self._generation.reason() or WireError("a queue was deleted")
            self.error = translate(reason, self._broker.where, maybe_stored=False)
            log.info("consuming begins again: %s", self.error)
            self._lose_all(self._generation)
            self._notify()
            await self._generation.close()
            if time.monotonic() - self._began < STEADY_SECONDS:
                await asyncio.sleep(self._pause)
                self._pause = min(2 * self._pause, LONGEST_PAUSE)
            else:
                self._pause = FIRST_PAUSE
            self._generation = await self._begin_again()
            self.error = None
            self._notify()

    def _lose_all(self, generation: Generation) -> None:
        """What was in flight is the broker's again; remember what it can't know of it."""
        idle = self._arrived.clear()
        for waiting in self.ready.values():
            with contextlib.suppress(IndexError):  # the other thread takes some just now
                while True:
                    idle.append(waiting.popleft())
        tags = {each.receipt.tag for each in idle}
        messages = generation.unsettled
        if messages is not None:
            begun = [run_of(each) for each in messages if each.tag not in tags]
            self._ledger.lose(begun, map(run_of_delivery, idle))
        self._held.clear()
        self._almost_due.clear()

    async def _begin_again(self) -> Generation:
        while True:
            try:
                return await self._begin()
            except BackendError as error:
                log.debug("no jobs can be consumed now: %s", error)
                self.error = error
            missing = isinstance(self.error, MissingError)
            await asyncio.sleep(MISSING_PAUSE if missing else self._pause)
            self._pause = min(2 * self._pause, LONGEST_PAUSE)

    # -- deliveries ------------------------------------------------------------

    def _on_work(self, source: Generation, queue: str, message: Incoming) -> None:
        run = job_id, runs, due_ms = run_of(message)
        ledger = self._ledger
        if not ledger.is_empty and ledger.is_over(run):
            self._forget(source, message)
            return
        again = deliveries_before(message)
        attempt = runs + 1 + (ledger.charged(run, again) if again else 0)
        receipt = source.work.receipt(message, runs)
        delivery = Delivery(job_id, queue, message.body, attempt, due_ms, receipt)
        hold_ms = min(number_in(message.headers, HOLD), AHEAD_MS)
        if hold_ms:
            self._arrived.hold(delivery, hold_ms, delivery.due_ms)
        else:
            self._take_ready(delivery)

    def _forget(self, source: Generation, message: Incoming) -> None:
        """Acknowledge what was settled before, on a connection that was lost then."""
        acknowledging = asyncio.create_task(source.work.acknowledge([message.tag]))
        self._acknowledging.add(acknowledging)
        acknowledging.add_done_callback(self._acknowledging.discard)

    def _take_ready(self, delivery: Delivery) -> None:
        self.ready[delivery.queue].append(delivery)
        self._notify()

    def _on_soon(self, source: Generation, queue: str, message: Incoming) -> None:
        held = (source.soon.receipt(message), self._router.due(message, queue))
        hold_ms, due_ms = number_in(message.headers, HOLD), due_in(message.headers)
        hold_ms = min(hold_ms, HELD_MS)  # only another program's is longer
        self._held.hold(held, hold_ms - AHEAD_MS, due_ms - AHEAD_MS)

    def _take_due(self, held: tuple[Receipt, Message]) -> None:
        self._almost_due.append(held)
        self._something_is_due.set()

    async def _hand_over(self) -> None:
        """Move what is due in a moment to the queue of what is ready.

        Were it run from where it is, a holder that dies before it is due would
        count as a run.
        """
        failing_since: float | None = None
        next_warning = 0.0
        while True:
            await self._something_is_due.wait()
            self._something_is_due.clear()
            due, self._almost_due = self._almost_due, []
            try:
                async with self._moving:
                    await self._move([each for each in due if not each[0].feed.lost.is_set()])
            except BackendError as error:
                now = time.monotonic()
                failing_since = failing_since or now
                level = logging.DEBUG
                if now >= next_warning:
                    level, next_warning = logging.WARNING, now + REMINDER_SECONDS
                log.log(level, "%d jobs that are due can't be moved yet: %s", len(due), error)
                self._almost_due[:0] = due
                self._something_is_due.set()
                await asyncio.sleep(LONGEST_PAUSE)
            else:
                if failing_since is not None:
                    lasted = time.monotonic() - failing_since
                    log.warning("jobs that are due are moved again after %.0f s", lasted)
                    failing_since, next_warning = None, 0.0

    async def _move(self, due: Sequence[tuple[Receipt, Message]]) -> None:
        if due:
            await self._publisher.publish([copy for _, copy in due])
            await due[0][0].feed.acknowledge([receipt.tag for receipt, _ in due])

    # -- how much is taken ahead -------------------------------------------------

    @property
    def is_paused(self) -> bool:
        """Whether nothing new is taken, since the engine didn't fetch what there was."""
        return not self._generation.work.is_consuming

    async def resize(self, prefetch: int) -> None:
        """Take so many ahead: jobs are faster than the way to the broker and back, or slower."""
        prefetch = min(prefetch, MOST_AHEAD)
        async with self._changing:
            feed = self._generation.work
            if prefetch <= self._prefetch and feed.is_consuming:
                return
            try:
                async with translated(self._broker.where, self._broker.timeout):
                    await feed.consume(prefetch)
            except BackendError:
                feed.lost.set()
            self._prefetch = prefetch

    async def _give_back_stale(self) -> None:
        """Consume no more while the engine is stuck, and give back what it didn't fetch."""
        while True:
            await asyncio.sleep(STALE_SECONDS)
            stale = time.monotonic() - self.last_call > STALE_SECONDS
            if not stale or not any(self.ready.values()) or self._generation.lost.is_set():
                continue
            async with self._changing:
                with contextlib.suppress(BackendError):
                    async with translated(self._broker.where, self._broker.timeout):
                        await self._generation.work.cancel()
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

        Raises:
            BackendError: the broker can't be reached: nothing is settled, or not for sure.
        """
        await self._make_sure_of(settlements)
        ours: list[Settlement] = []
        foreign: list[Delivery] = []
        for each in settlements:
            receipt = each.delivery.receipt
            if not receipt.feed.lost.is_set():
                ours.append(each)
            elif not receipt.is_copied:
                foreign.append(each.delivery)
        await self._copy([each for each in ours if not each.delivery.receipt.is_copied])
        if ours:
            # One generation at a time is not lost, so these are all of its feed.
            feed: Feed = ours[0].delivery.receipt.feed
            await feed.acknowledge([each.delivery.receipt.tag for each in ours])
            done = [each.delivery for each in ours if each.verdict is Verdict.ACKNOWLEDGE]
            if feed.lost.is_set():
                foreign += done
            else:
                self._ledger.settle(done, is_lost=False)
        return foreign

    async def _make_sure_of(self, settlements: Sequence[Settlement]) -> None:
        """Ask the broker whether what must be copied is still ours.

        A process that was frozen doesn't know yet that others have its jobs: the copy would
        be one job more.
        """
        for each in settlements:
            receipt = each.delivery.receipt
            needs_copy = each.verdict is not Verdict.ACKNOWLEDGE and not receipt.is_copied
            if needs_copy and not receipt.feed.lost.is_set():
                try:
                    async with translated(self._broker.where, self._broker.timeout):
                        await receipt.feed.channel.echo()
                except BackendError:
                    if not receipt.feed.lost.is_set():
                        raise
                return

    async def _copy(self, settlements: Sequence[Settlement]) -> None:
        messages = [self._copy_of(e) for e in settlements if e.verdict is not Verdict.ACKNOWLEDGE]
        if not messages:
            return
        await self._publisher.publish(messages)
        copied = [e.delivery for e in settlements if e.verdict is not Verdict.ACKNOWLEDGE]
        for each in copied:
            each.receipt.is_copied = True
        # What was released has the same number of runs as its copy, and can't be told from it.
        over = [
            e.delivery
            for e in settlements
            if e.verdict is Verdict.RETRY or e.verdict is Verdict.DEAD_LETTER
        ]
        self._ledger.settle(over, is_lost=over[0].receipt.feed.lost.is_set() if over else False)

    def _copy_of(self, settlement: Settlement) -> Message:
        delivery = settlement.delivery
        if settlement.verdict is Verdict.RETRY:
            return self._router.retry(delivery, settlement.delay_ms)
        if settlement.verdict is Verdict.DEAD_LETTER:
            frame_max = self._generation.work.channel.connection.frame_max
            return self._router.dead(delivery, settlement.failure, frame_max)
        return self._router.release(delivery)

    # -- the end ---------------------------------------------------------------

    async def stop(self) -> None:
        """Stop consuming, give back what was taken and not settled, and disconnect."""
        try:
            # What is published already and not yet acknowledged would be there twice.
            async with self._changing, self._moving:
                for task in self._tasks:
                    task.cancel()
            if not self._generation.lost.is_set():
                async with translated(self._broker.where, self._broker.timeout):
                    await self._generation.work.cancel()
                await asyncio.sleep(AHEAD_MS / 1000)  # by then, what is almost due is ready
                await self._release_ready()
        except BackendError as error:
            log.warning("what was taken goes back when the connection ends: %s", error)
        finally:
            try:
                await asyncio.gather(self._generation.close(), self._publisher.close())
            finally:  # there may be no time to take leave
                self._generation.drop()
                self._publisher.drop()
