"""taskiq with the stream broker of taskiq-redis, its reliable one, as its documentation shows.

What their sources (0.13.0, 1.2.4) promise:

- `kiq` is an XADD. The stream isn't trimmed by default: it grows for ever.
- XREADGROUP brings up to 100 jobs; behind each batch a lock is taken to look for jobs that
  others left. Each is acknowledged with an XACK of its own, after the run and its result,
  which the default backend drops. Those of a dead worker are claimed after ten minutes.
- The receiver checks args against the handler's annotations.
- Its list broker is not taken: it pops a job before it runs, and never acknowledges it.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from taskiq_redis import RedisStreamBroker

from benchmarks.harness import Values
from benchmarks.peer_taskiq import listening
from benchmarks.redis_server import flush
from benchmarks.workload import HANDLER, DrainClock, in_25_tasks


@asynccontextmanager
async def _broker(url: str) -> AsyncIterator[RedisStreamBroker]:
    flush(url)
    broker = RedisStreamBroker(url)
    await broker.startup()
    yield broker
    await broker.shutdown()


def drain(url: str, concurrency: int, jobs: int) -> Values:
    """Run what waits."""

    async def run() -> float:
        clock = DrainClock(jobs)
        async with _broker(url) as broker:

            @broker.task(task_name=HANDLER)
            async def handle(x: float) -> None:  # noqa: ARG001
                clock.tick()

            async def send(share: int) -> None:
                for _ in range(share):
                    await handle.kiq(1.0)

            await in_25_tasks(send, clock.jobs)
            gc.collect()
            async with listening(broker, concurrency, run_startup=True):
                await clock.done.wait()
        return clock.jobs_per_second

    return {"drain": asyncio.run(run())}
