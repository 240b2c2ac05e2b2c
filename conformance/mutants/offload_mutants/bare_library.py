"""Stands for a library with a loop of its own: it keeps tasks, and runs those that are due."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

_number = itertools.count()


def now_ms() -> int:
    """Its clock, in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


@dataclass(order=True)
class Task:
    """What it keeps: some bytes, due at some time."""

    due_ms: int
    number: int = field(default_factory=lambda: next(_number), init=False)
    id: str = field(compare=False)
    queue: str = field(compare=False)
    body: bytes = field(compare=False)
    runs: int = field(compare=False, default=0)


Work: TypeAlias = Callable[[Task], Coroutine[None, None, None]]


class Library:
    """Tasks in memory, and a loop for each queue."""

    def __init__(self, slots: int, work: Work) -> None:
        """`work` is called for each task, for up to `slots` at once."""
        self._slots, self._work = slots, work
        self._tasks: defaultdict[str, list[Task]] = defaultdict(list)
        self._arrived: dict[str, asyncio.Event] = {}
        self._loops: list[asyncio.Task[None]] = []
        self._running: set[asyncio.Task[None]] = set()

    def put(self, task: Task) -> None:
        """Keep this until it is due."""
        heapq.heappush(self._tasks[task.queue], task)
        if task.queue in self._arrived:
            self._arrived[task.queue].set()

    def waiting(self) -> Iterator[Task]:
        """What it keeps."""
        return itertools.chain(*self._tasks.values())

    def begin(self, queues: Sequence[str]) -> None:
        """Take tasks of these queues."""
        slots = asyncio.Semaphore(self._slots)
        self._arrived = {queue: asyncio.Event() for queue in queues}
        self._loops = [asyncio.create_task(self._take(queue, slots)) for queue in queues]

    async def _take(self, queue: str, slots: asyncio.Semaphore) -> None:
        tasks, arrived = self._tasks[queue], self._arrived[queue]
        while True:
            arrived.clear()
            wait = (tasks[0].due_ms - now_ms()) / 1000 if tasks else None
            if wait is None or wait > 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await arrived.wait()
                continue
            await slots.acquire()
            running = asyncio.create_task(self._work(heapq.heappop(tasks)))
            self._running.add(running)
            running.add_done_callback(self._running.discard)
            running.add_done_callback(lambda _: slots.release())

    async def end(self) -> None:
        """Take no more."""
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)

    async def finish(self) -> None:
        """Wait for those that run."""
        await asyncio.gather(*self._running)
