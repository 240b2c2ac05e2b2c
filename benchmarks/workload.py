"""The same no-op jobs for everybody."""

from __future__ import annotations

import asyncio
import functools
import gc
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


def some_jobs(number: int) -> Iterator[Job]:
    """Jobs with one float as their args, made one by one, as a program would."""
    return (Job(HANDLER, {"x": 1.0}) for _ in range(number))


async def one_at_a_time(worker: Worker, jobs: int) -> None:
    """Perform each when the one before is accepted."""
    for job in some_jobs(jobs):
        await worker.perform(job)


async def in_25_tasks(perform: Callable[[int], Awaitable[None]], jobs: int) -> None:
    """Share the jobs out among 25 tasks."""
    shares = [len(range(first, jobs, CONCURRENCY)) for first in range(CONCURRENCY)]
    await asyncio.gather(*(perform(share) for share in shares))


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
