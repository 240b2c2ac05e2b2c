"""LIFE: slips in starting and stopping; see also `mutants_stop`."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from offload import (
    AlreadyRunningError,
    Args,
    Fetched,
    Job,
    State,
    StopReport,
    WorkerStoppedError,
)
from offload.config import CONCURRENCY, Config, read_config
from offload.job import new_job_id
from offload_mutants.registry import mutant
from offload_mutants.wrapper import Wrapper
from offload_simple.driver import SimpleDriver
from offload_simple.memory import Memory
from offload_simple.subscription import SimpleSubscription


class SeesItsRuns(Wrapper):
    """Knows how many handlers run now, and how many have ended."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.ended = 0
        self.tasks: set[asyncio.Task[Any]] = set()
        self.changed = asyncio.Event()

    def change_handler(self, name: str, handler: Any) -> Any:
        async def call_it(args: Args) -> None:
            task = asyncio.current_task()
            if task is None:
                raise AssertionError("it runs in a task")
            self.tasks.add(task)
            try:
                await handler(args)
                self.ended += 1
            except Exception:
                self.ended += 1
                raise
            finally:
                self.tasks.discard(task)
                self.changed.set()

        return call_it if inspect.iscoroutinefunction(handler) else handler

    @property
    def running(self) -> int:
        """How many handlers run now."""
        return len(self.tasks)

    async def until_running_at_most(self, limit: int) -> None:
        while self.running > limit:
            self.changed.clear()
            await self.changed.wait()


@mutant("LIFE-1")
class SaysRunningWhileItDrains(Wrapper):
    """Has one flag, which is cleared at the end of stop."""

    @property
    def state(self) -> State:
        state = super().state
        return State.RUNNING if state is State.STOPPING else state


@mutant("LIFE-1", "LIFE-12")
class IsNewAgainAfterStop(Wrapper):
    """Has one flag, which says whether it runs."""

    @property
    def state(self) -> State:
        state = super().state
        return State.NEW if state is State.STOPPED else state


@mutant("LIFE-2", "LIFE-12", "ARGS-2")
class StartsInTheBackground(Wrapper):
    """Makes its consumer a task, and doesn't wait until that has subscribed."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._starting: asyncio.Task[None] | None = None

    async def start(self) -> None:
        if self._starting is not None and not self._starting.done():
            raise AlreadyRunningError("it is being started")
        if self.state in (State.RUNNING, State.STOPPING):
            raise AlreadyRunningError("it runs")
        self._starting = asyncio.create_task(self._start())

    async def _start(self) -> None:
        await asyncio.sleep(0.005)
        await super().start()

    async def perform(self, job: Job) -> str:
        await self._started()
        return await super().perform(job)

    async def perform_in(self, job: Job, delay: Any) -> str:
        await self._started()
        return await super().perform_in(job, delay)

    async def stop(self) -> StopReport:
        await self._started()
        return await super().stop()

    async def _started(self) -> None:
        if self._starting is not None:
            await self._starting


class _OneMoreWithEachJob(SimpleSubscription):
    def __init__(self, memory: Memory, queues: Sequence[str]) -> None:
        super().__init__(memory, queues[:1])
        self._all_queues = queues

    async def fetch(self, limit: int) -> Fetched:
        fetched = await super().fetch(limit)
        if fetched.deliveries:
            self._queues = self._all_queues[: len(self._queues) + 1]
        return fetched


@mutant("LIFE-2", "QUE-1", "QUE-3", "TIME-7", "FIFO-1")
class SubscribesToTheSecondQueueBehindTheFirst(SimpleDriver):
    """Subscribes to one queue when it starts, and to another when that has brought something."""

    async def subscribe(self, queues: Sequence[str]) -> SimpleSubscription:
        self._memory.take_back()
        self._subscription = _OneMoreWithEachJob(self._memory, queues)
        return self._subscription


class _MissesTheFirst(SimpleSubscription):
    async def wait(self, timeout: float) -> None:
        if getattr(self, "_is_awake", False):
            await super().wait(timeout)
            return
        self._arrived = asyncio.get_running_loop().create_future()
        await self._arrived

    def wake(self) -> None:
        if not getattr(self, "_is_awake", False):
            self._is_awake = True  # taken for the ring of its own start
            return
        super().wake()


@mutant("LIFE-2", "PERF-9", "TIME-2", "TIME-3")
class NeedsASecondPush(SimpleDriver):
    """Takes what wakes it for the first time for its own start, and waits for the next."""

    async def subscribe(self, queues: Sequence[str]) -> SimpleSubscription:
        self._memory.take_back()
        self._subscription = _MissesTheFirst(self._memory, queues)
        return self._subscription


@mutant("LIFE-3")
class SecondStartIsSilent(Wrapper):
    """Takes a second start for a wish that is fulfilled already."""

    async def start(self) -> None:
        if self.state is not State.RUNNING:
            await super().start()


@mutant("LIFE-3")
class StartWaitsForTheDrain(Wrapper):
    """Started while it drains, it waits, and then starts."""

    async def start(self) -> None:
        if self.state is State.STOPPING:
            await self.inner.stop()
        await super().start()


@mutant("LIFE-3")
class SecondStartBreaksTheFirst(Wrapper):
    """Notices that it runs when it has taken everything down for a new start."""

    async def start(self) -> None:
        if self.state is State.RUNNING:
            await self.inner.stop()
            raise AlreadyRunningError("it runs")
        await super().start()


@mutant("LIFE-3")
class SecondStartConsumesTwice(Wrapper):
    """Has another consumer at work when it notices that there was one."""

    def __init__(self, config: Config) -> None:
        query = {**config.address.query, "concurrency": str(2 * config[CONCURRENCY])}
        super().__init__(read_config(replace(config.address, query=query), ()))
        self._slots = asyncio.Semaphore(config[CONCURRENCY])
        self._of_one = config[CONCURRENCY]

    def change_handler(self, name: str, handler: Any) -> Any:
        async def call_it(args: Args) -> None:
            async with self._slots:
                await handler(args)

        return call_it if inspect.iscoroutinefunction(handler) else handler

    async def start(self) -> None:
        if self.state is State.RUNNING:
            for _ in range(self._of_one):
                self._slots.release()
        await super().start()


@mutant("LIFE-5")
class KeepsWhatComesDuringTheDrain(Wrapper):
    """Performed while it drains, a job is kept for the next start."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._kept: list[Job] = []

    async def perform(self, job: Job) -> str:
        if self.state is State.STOPPING:
            self._kept.append(job)
            return new_job_id(time.time_ns() // 1_000_000)
        return await super().perform(job)

    async def start(self) -> None:
        await super().start()
        while self._kept:
            await super().perform(self._kept.pop(0))


@mutant("LIFE-5")
class RefusesButStores(Wrapper):
    """Looks whether it was stopped when the job is in the queue already."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._refused: list[Job] = []

    async def perform(self, job: Job) -> str:
        try:
            return await super().perform(job)
        except WorkerStoppedError:
            self._refused.append(job)
            raise

    async def start(self) -> None:
        await super().start()
        while self._refused:
            await super().perform(self._refused.pop(0))


@mutant("LIFE-6", "LIFE-7", "LIFE-13")
class WaitsForAllHandlersButOne(SeesItsRuns):
    """Gathers its handlers, and forgets the one that was added last."""

    async def stop(self) -> StopReport:
        if self.running < 2:
            return await super().stop()
        stopping = asyncio.create_task(super().stop())
        await self.until_running_at_most(1)
        await asyncio.wait([stopping], timeout=0 if self.running else None)
        return stopping.result() if stopping.done() else StopReport(self.ended)


@mutant("LIFE-6", "LIFE-13")
class EmptiesItsQueueFirst(Wrapper):
    """Takes draining for doing all that waits."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._draining = False

    @property
    def state(self) -> State:
        return State.STOPPING if self._draining else super().state

    async def perform(self, job: Job) -> str:
        if self._draining:
            raise WorkerStoppedError("stop was called")
        return await super().perform(job)

    async def stop(self) -> StopReport:
        if self.state is State.RUNNING:
            self._draining = True
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self._until_empty()
            self._draining = False
        return await super().stop()

    async def _until_empty(self) -> None:
        while any(  # noqa: ASYNC110 (it can only be asked)
            count.waiting for count in (await self.counts()).values()
        ):
            await asyncio.sleep(0.001)
