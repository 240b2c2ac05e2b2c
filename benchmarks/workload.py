"""The same no-op jobs for everybody."""

from __future__ import annotations

import asyncio
import functools
import gc
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import TypeAlias

from offload import Args, Job, Worker

CONCURRENCY = 25
"""Handlers at once, and tasks that perform at once: Offload's default."""
HANDLER = "benchmark"

Perform: TypeAlias = Callable[[Worker, int], Awaitable[object]]


def jobs_per_second(run: Callable[[int], Coroutine[object, object, float]], jobs: int) -> float:
    """From a coroutine function that takes a number of jobs and returns the seconds they took."""
    # The warm-up fills every cache there is: code objects, statements, free lists.
    asyncio.run(run(max(jobs // 10, 100)))
    gc.collect()
    return jobs / asyncio.run(run(jobs))


def countdown(jobs: int) -> tuple[Callable[[Args], Coroutine[object, object, None]], asyncio.Event]:
    """A no-op handler, and an event that is set when it has run so many times."""
    left = jobs
    done = asyncio.Event()

    async def handle(_: Args) -> None:
        nonlocal left
        left -= 1
        if not left:
            done.set()

    return handle, done


class DrainClock:
    """Read in the handlers, whoever calls them: jobs a second, once a tenth of them has run."""

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs + max(jobs // 10, 100)
        """How many must be enqueued."""
        self.done = asyncio.Event()
        self._counted = jobs
        self._left = self.jobs
        self._began = self._ended = 0.0

    def tick(self) -> None:
        """A handler runs."""
        self._left -= 1
        if self._left == self._counted:
            self._began = time.perf_counter()
        elif not self._left:
            self._ended = time.perf_counter()
            self.done.set()

    @property
    def jobs_per_second(self) -> float:
        """Behind `done`."""
        return self._counted / (self._ended - self._began)


def in_threads(threads: int, call: Callable[[int], object], jobs: int) -> float:
    """Warm up with a tenth of the jobs, then enqueue all from `threads` threads; jobs a second."""
    call(max(jobs // 10, 100))
    shares = [len(range(first, jobs, threads)) for first in range(threads)]
    workers = [threading.Thread(target=call, args=(share,)) for share in shares]
    gc.collect()
    began = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return jobs / (time.perf_counter() - began)


def threads_measure(threads: int) -> str:
    """The measure of enqueueing from this many threads."""
    return "1 thread" if threads == 1 else f"{threads} threads"


def enqueue_measure(tasks: int) -> str:
    """The measure of enqueueing from so many tasks."""
    return "one at a time" if tasks == 1 else f"{tasks} tasks"


def some_jobs(number: int) -> Iterator[Job]:
    """Jobs with one float as their args, made one by one, as a program would."""
    return (Job(HANDLER, {"x": 1.0}) for _ in range(number))


async def one_at_a_time(worker: Worker, jobs: int) -> None:
    """Perform each when the one before is accepted."""
    for job in some_jobs(jobs):
        await worker.perform(job)


async def in_tasks(tasks: int, perform: Callable[[int], Awaitable[None]], jobs: int) -> None:
    """Share the jobs out among so many tasks."""
    shares = [len(range(first, jobs, tasks)) for first in range(tasks)]
    await asyncio.gather(*(perform(share) for share in shares))


async def in_25_tasks(perform: Callable[[int], Awaitable[None]], jobs: int) -> None:
    """Share the jobs out among 25 tasks."""
    await in_tasks(CONCURRENCY, perform, jobs)


async def by_25_tasks(worker: Worker, jobs: int) -> None:
    """Perform from 25 tasks at once, each one job at a time."""
    await in_25_tasks(functools.partial(one_at_a_time, worker), jobs)


async def in_bulk(worker: Worker, jobs: int) -> None:
    """Perform all in one call."""
    await worker.perform_many(some_jobs(jobs))


PERFORM: dict[str, Perform] = {
    "one at a time": one_at_a_time,
    "25 tasks": by_25_tasks,
    "perform_many": in_bulk,
}


async def until_settled(worker: Worker) -> None:
    """Return when the backend has accepted every verdict: nothing waits and nothing is leased."""
    while await worker.counts():  # noqa: ASYNC110  (a worker has no event for this)
        await asyncio.sleep(0)


def free_port() -> int:
    """A port of the loopback interface that nobody has now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
