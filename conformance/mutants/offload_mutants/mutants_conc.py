"""CONC: slips in how many run together."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import offload
from offload import Delivery, Entry, Fetched, Handler, Settlement, Verdict
from offload.config import CONCURRENCY, Config
from offload_conformance.rules import PREFETCH
from offload_mutants.registry import mutant
from offload_mutants.wrapper import Wrapper, right_worker
from offload_simple.driver import SimpleDriver
from offload_simple.subscription import SimpleSubscription
from offload_sqlite.driver import SqliteDriver
from offload_sqlite.subscription import SqliteSubscription


def with_slots(config: Config, change: int) -> Config:
    """The config with so many more slots."""
    values = {**config._values, CONCURRENCY.name: config[CONCURRENCY] + change}
    return replace(config, _values=values)


@mutant("CONC-1", "LIFE-6")
class OneTooMany(Wrapper):
    """Off by one: asks whether there is room after it has taken the job."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.inner = right_worker(with_slots(config, 1 if config[CONCURRENCY] > 1 else 0))


@mutant("CONC-2", "LIFE-6")
class OneTooFew(Wrapper):
    """Off by one: its own loop takes one of the slots."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.inner = right_worker(with_slots(config, -1 if config[CONCURRENCY] > 2 else 0))


class Slots(Wrapper):
    """Keeps slots of its own; those of the worker inside are so many that they don't matter."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.inner = right_worker(with_slots(config, self.spare))
        self._free = asyncio.Semaphore(config[CONCURRENCY])
        self._free_of_threads = threading.Semaphore(config[CONCURRENCY])

    spare = 20

    def change_handler(self, name: str, handler: Any) -> Any:
        if inspect.iscoroutinefunction(handler):
            return self._in_slot(handler)
        return self._in_slot_of_threads(handler) if callable(handler) else handler

    def _in_slot(self, handler: Any) -> Handler:
        async def run(args: offload.Args) -> None:
            await self._free.acquire()
            await self.run(handler, args, self._free)

        return run

    def _in_slot_of_threads(self, handler: Any) -> Handler:
        def run(args: offload.Args) -> None:
            self._free_of_threads.acquire()
            self.run_plain(handler, args, self._free_of_threads)

        return run

    async def run(self, handler: Any, args: offload.Args, free: asyncio.Semaphore) -> None:
        """Run it, and free the slot."""
        try:
            await handler(args)
        finally:
            free.release()

    def run_plain(self, handler: Any, args: offload.Args, free: threading.Semaphore) -> None:
        """Run it, and free the slot."""
        try:
            handler(args)
        finally:
            free.release()


@mutant("CONC-1", "LIFE-6")
class FreesTwiceAfterAFailure(Slots):
    """Frees the slot where it handles the error, and once more in `finally`."""

    async def run(self, handler: Any, args: offload.Args, free: asyncio.Semaphore) -> None:
        try:
            await handler(args)
        except Exception:
            free.release()
            raise
        finally:
            free.release()


@mutant("CONC-1", "LIFE-6")
class DoesNotCountPlainHandlers(Slots):
    """`def` handlers run in threads, and take no slot."""

    def run_plain(self, handler: Any, args: offload.Args, free: threading.Semaphore) -> None:
        free.release()
        handler(args)


class OfTheWorker(Slots):
    """Slots as many as those of the worker inside: they matter only once one is lost."""

    spare = 0


@mutant("CONC-2")
class LosesASlotForEachFailure(OfTheWorker):
    """Frees the slot behind the call: not in `finally`. The last one is kept by chance."""

    async def run(self, handler: Any, args: offload.Args, free: asyncio.Semaphore) -> None:
        try:
            await handler(args)
        except Exception:
            self._lost = getattr(self, "_lost", 0) + 1
            if self._lost >= self.config[CONCURRENCY]:
                free.release()
            raise
        except BaseException:
            free.release()
            raise
        free.release()


@mutant("CONC-2", "CONC-3", "LIFE-6", "LIFE-7", "LIFE-13")
class OneAtATime(OfTheWorker):
    """A lock around the handler, left from a search for something else."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._free = asyncio.Semaphore(1)


# -- CONC-3 ------------------------------------------------------------------------


class _Batches(SimpleSubscription):
    async def fetch(self, limit: int) -> Fetched:
        if len(self._memory.running) > 1:
            return Fetched([])
        return await super().fetch(limit)

    async def wait(self, timeout: float) -> None:
        await asyncio.sleep(0.005)


@mutant("CONC-3", "LIFE-13")
class WaitsForTheWholeBatch(SimpleDriver):
    """`await asyncio.gather(*batch)`: what is stuck holds up all that comes after its batch."""

    async def subscribe(self, queues: Sequence[str]) -> SimpleSubscription:
        self._subscription = _Batches(self._memory, queues)
        return self._subscription


class _UpToAnOffset(SimpleSubscription):
    async def fetch(self, limit: int) -> Fetched:
        running = self._memory.running
        taken: dict[str, int] = self.__dict__.setdefault("_taken", {})
        number = self.__dict__.setdefault("_number", 0)
        oldest = min((taken[each] for each in running), default=number)
        room = oldest + 50 - number
        if room <= 0:
            return Fetched([])
        fetched = await super().fetch(min(limit, room))
        for each in fetched.deliveries:
            self._number = taken[each.id] = self._number + 1
        return fetched

    async def wait(self, timeout: float) -> None:
        await asyncio.sleep(0.005)


@mutant("CONC-3", "PERF-9", "FAIL-6")
class ReadsFiftyBeyondTheOldest(SimpleDriver):
    """Acknowledges by one offset, as a log is read, and goes no farther than fifty beyond it."""

    async def subscribe(self, queues: Sequence[str]) -> SimpleSubscription:
        self._memory.take_back()
        self._subscription = _UpToAnOffset(self._memory, queues)
        return self._subscription


@mutant("CONC-3", "CONC-2", "LIFE-6")
class WatchesASlowOneFromAnotherSlot(OfTheWorker):
    """Gives what is slow a companion that waits for it, and needs a slot as well."""

    async def run(self, handler: Any, args: offload.Args, free: asyncio.Semaphore) -> None:
        companion = asyncio.create_task(self._watch(free))
        try:
            await handler(args)
        finally:
            companion.cancel()
            free.release()

    async def _watch(self, free: asyncio.Semaphore) -> None:
        await asyncio.sleep(0.05)
        async with free:
            await asyncio.Event().wait()


# -- CONC-4 ------------------------------------------------------------------------


class _Hoard(SqliteSubscription):
    """Leases what there is, hands it out from a store of its own, and takes it back there."""

    most = 5000

    async def fetch(self, limit: int) -> Fetched:
        hoard = self._store_of_its_own()
        if not hoard:
            fetched = await super().fetch(self.most)
            if not fetched.deliveries:
                return fetched
            hoard.extend(fetched.deliveries)
        return Fetched([hoard.popleft() for _ in range(min(limit, len(hoard)))])

    async def settle(self, settlements: Sequence[Settlement]) -> Collection[Delivery]:
        released = [s.delivery for s in settlements if s.verdict is Verdict.RELEASE]
        self._store_of_its_own().extendleft(released)
        return await super().settle([s for s in settlements if s.verdict is not Verdict.RELEASE])

    def _store_of_its_own(self) -> deque[Delivery]:
        hoard: deque[Delivery] = self.__dict__.setdefault("_hoard", deque())
        return hoard


@mutant("CONC-4", "DIST-3", "QUE-3", base="sqlite")
class LeasesAllThereIs(SqliteDriver):
    """Prefetches without a bound, since that is fastest."""

    async def subscribe(self, queues: Sequence[str]) -> SqliteSubscription:
        create = _Hoard.create
        return await create(self._store, self._thread, queues, timedelta(seconds=30))


class _HoardForSlots(_Hoard):
    most = 3 * PREFETCH


@mutant("CONC-4", base="sqlite")
class LeasesTooManyForEachSlot(SqliteDriver):
    """Prefetches with a bound, and with one that is half as much again as is allowed for two."""

    async def subscribe(self, queues: Sequence[str]) -> SqliteSubscription:
        create = _HoardForSlots.create
        return await create(self._store, self._thread, queues, timedelta(seconds=30))


class _HoardOfEachQueue(_Hoard):
    async def fetch(self, limit: int) -> Fetched:
        hoard = self._store_of_its_own()
        if not hoard:
            for queue in self._queues:
                taken = (self._session, [queue], 80)
                hoard.extend((await self._thread.call(self._store.fetch, *taken)).deliveries)
        return await super().fetch(limit)


@mutant("CONC-4", "QUE-3", base="sqlite")
class PrefetchesForEachQueue(SqliteDriver):
    """Has a consumer for each of its queues, each with a prefetch of its own."""

    async def subscribe(self, queues: Sequence[str]) -> SqliteSubscription:
        create = _HoardOfEachQueue.create
        return await create(self._store, self._thread, queues, timedelta(seconds=30))


class _Own(SqliteSubscription):
    """Has what its worker performs leased at once, and hands that out first."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.own: deque[Delivery] = deque()

    def store_and_take(self, entries: Sequence[Entry]) -> None:
        """Store these, wake nobody, and lease them. In the thread of the store."""
        store, database = self._store, self._store.database
        store.sessions.bells = lambda queues=None: []  # type: ignore[method-assign]
        try:
            store.enqueue(entries)
        finally:
            del store.sessions.bells
        with database.errors(), database.transaction():
            for entry in entries:
                which = ("session = 0 AND id = ?", (entry.id,), 1)
                self.own.extend(store._lease_where(self._session, entry.queue, *which))

    async def fetch(self, limit: int) -> Fetched:
        if not self.own:
            return await super().fetch(limit)
        return Fetched([self.own.popleft() for _ in range(min(limit, len(self.own)))])

    async def settle(self, settlements: Sequence[Settlement]) -> Collection[Delivery]:
        self.own.extendleft(s.delivery for s in settlements if s.verdict is Verdict.RELEASE)
        return await super().settle([s for s in settlements if s.verdict is not Verdict.RELEASE])


@mutant("CONC-4", "DIST-3", "FIFO-1", "LIFE-7", base="sqlite")
class RunsWhatItPerformsItself(SqliteDriver):
    """Spares the jobs of its own process the way to another, and keeps them for its own slots."""

    _own: _Own | None = None

    async def subscribe(self, queues: Sequence[str]) -> SqliteSubscription:
        lease = timedelta(seconds=30)
        self._own = await _Own.create(self._store, self._thread, queues, lease)
        return self._own

    async def enqueue(self, entries: Sequence[Entry]) -> None:
        own = self._own
        if own is None or not all(_is_for(own._queues, each) for each in entries):
            await super().enqueue(entries)
            return
        await self._thread.call(own.store_and_take, entries)
        own._rung.set()


def _is_for(queues: Sequence[str], entry: Entry) -> bool:
    return not entry.delay_ms and entry.at_ms is None and entry.queue in queues
