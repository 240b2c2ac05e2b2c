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
from offload import Delivery, Fetched, Handler, Settlement, Verdict
from offload.config import CONCURRENCY, Config
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


# -- CONC-4 ------------------------------------------------------------------------


class _Hoard(SqliteSubscription):
    """Leases what there is, hands it out from a store of its own, and takes it back there."""

    async def fetch(self, limit: int) -> Fetched:
        hoard = self._store_of_its_own()
        if not hoard:
            fetched = await super().fetch(5000)
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
