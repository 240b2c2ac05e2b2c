"""saq, used as its documentation shows.

What its source (0.26.4) promises:

- `enqueue` is one script, which stores a job unless its key is known; at most 20 at once.
- BLMOVE takes each job to a list of active ones, which costs a call a job. A job that is active
  for longer than its timeout, 10 s by default, is swept up by whoever looks, once a minute: run
  again if it has retries left. By default it has none, and what a kill cut short is aborted.
- Its result is kept for ten minutes, and published to whoever listens, at each end.
- Its extra `saq[redis]` pins an older redis-py; the one here works, too.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from saq import Queue, Worker

from benchmarks.harness import Values
from benchmarks.redis_server import flush
from benchmarks.workload import CONCURRENCY, HANDLER, DrainClock, in_25_tasks, jobs_per_second


@asynccontextmanager
async def _queue(url: str) -> AsyncIterator[Queue]:
    flush(url)
    queue = Queue.from_url(url)
    await queue.connect()
    yield queue
    await queue.disconnect()


async def _enqueue(queue: Queue, jobs: int) -> None:
    for _ in range(jobs):
        await queue.enqueue(HANDLER, x=1.0)


async def _by_25_tasks(queue: Queue, jobs: int) -> None:
    await in_25_tasks(lambda share: _enqueue(queue, share), jobs)


def enqueue(url: str, tasks: int, jobs: int) -> Values:
    """From one task or from 25."""

    async def run(number: int) -> float:
        async with _queue(url) as queue:
            await _enqueue(queue, 1)
            began = time.perf_counter()
            await (_enqueue if tasks == 1 else _by_25_tasks)(queue, number)
            return time.perf_counter() - began

    return {"one at a time" if tasks == 1 else "25 tasks": jobs_per_second(run, jobs)}


def drain(url: str, jobs: int) -> Values:
    """Run what waits."""

    async def run() -> float:
        clock = DrainClock(jobs)

        async def handle(_: Any, *, x: float) -> None:  # noqa: ARG001
            clock.tick()

        async with _queue(url) as queue:
            await _by_25_tasks(queue, clock.jobs)
            gc.collect()
            worker = Worker(queue, [(HANDLER, handle)], concurrency=CONCURRENCY)
            running = asyncio.create_task(worker.start())
            await clock.done.wait()
            await worker.stop()
            await running
        return clock.jobs_per_second

    return {"drain": asyncio.run(run())}
