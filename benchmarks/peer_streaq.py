"""streaq's way to enqueue many, as its documentation shows.

What its source (7.2.0) promises:

- `enqueue_many` makes one pipeline of calls of a stored function, one a job: each stores the
  pickled task under a key of its own and its id in a stream.
- It talks to the server with coredis, not with redis-py.
- A task is acknowledged after the run, and its result kept for five minutes. Those of a worker
  that is silent for a minute are claimed by others.
"""

from __future__ import annotations

import time

from streaq import Worker

from benchmarks.harness import Values
from benchmarks.redis_server import flush
from benchmarks.workload import HANDLER, jobs_per_second


def enqueue_many(url: str, batch: int, jobs: int) -> Values:
    """So many in each call."""

    async def run(number: int) -> float:
        flush(url)
        worker = Worker(redis_url=url)

        @worker.task(name=HANDLER)
        async def handle(x: float) -> None:
            pass

        async with worker:
            await worker.enqueue_many([handle.enqueue(1.0)])
            began = time.perf_counter()
            for first in range(0, number, batch):
                size = min(batch, number - first)
                await worker.enqueue_many([handle.enqueue(1.0) for _ in range(size)])
            return time.perf_counter() - began

    return {"perform_many": jobs_per_second(run, jobs)}
