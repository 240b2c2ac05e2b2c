"""taskiq with taskiq-aio-pika, as its documentation shows.

What their sources (0.13.0, 0.6.1) promise:

- `kiq` is a persistent, mandatory publish, and returns when the broker has confirmed it. What
  can't be routed comes back, and nobody is told.
- Queues are quorum queues by default. 10 jobs are prefetched, however many may run.
- Each is acknowledged by itself, after the run and its result, which the default backend drops. One
  whose worker dies is delivered again at once; a handler that raises is logged, and acknowledged.
- A delay is a message's own time to live in one queue for all delays. That queue expires at its
  head: a job waits there for each longer one that came before.
- The receiver checks args against the handler's annotations.
"""

from __future__ import annotations

import asyncio
import gc
import time

from taskiq_aio_pika import AioPikaBroker
from taskiq_aio_pika.queue import Queue, QueueType

from benchmarks.harness import Values
from benchmarks.latency import Dues
from benchmarks.peer_taskiq import listening
from benchmarks.workload import (
    HANDLER,
    DrainClock,
    enqueue_measure,
    in_tasks,
    jobs_per_second,
)

TASKS = 100
"""At once: the default of its command line."""


def _new_broker(url: str, queue_type: str = "quorum", qos: int = 10) -> AioPikaBroker:
    kind = QueueType(queue_type)
    return AioPikaBroker(
        url,
        qos=qos,
        # Another type needs another name: what is there can't change.
        task_queues=[Queue(name=f"taskiq.{queue_type}", type=kind)],
        dead_letter_queue=Queue(name=f"taskiq.{queue_type}.dead_letter", type=kind),
        delay_queue=Queue(name=f"taskiq.{queue_type}.delay", type=kind),
    )


def enqueue(url: str, tasks: int, jobs: int) -> Values:
    """From so many tasks, each one job at a time."""

    async def run(number: int) -> float:
        broker = _new_broker(url)

        @broker.task(task_name=HANDLER)
        async def handle(x: float) -> None:
            pass

        async def send(share: int) -> None:
            for _ in range(share):
                await handle.kiq(1.0)

        await broker.startup()
        await send(1)
        began = time.perf_counter()
        await in_tasks(tasks, send, number)
        took = time.perf_counter() - began
        await broker.shutdown()
        return took

    return {enqueue_measure(tasks): jobs_per_second(run, jobs)}


def drain(url: str, queue_type: str, qos: int, jobs: int) -> Values:
    """Run what waits."""

    async def run() -> float:
        clock = DrainClock(jobs)
        broker = _new_broker(url, queue_type, qos)

        @broker.task(task_name=HANDLER)
        async def handle(x: float) -> None:  # noqa: ARG001
            clock.tick()

        async def send(share: int) -> None:
            for _ in range(share):
                await handle.kiq(1.0)

        broker.is_worker_process = True
        await broker.startup()
        await in_tasks(100, send, clock.jobs)
        gc.collect()
        async with listening(broker, TASKS, run_startup=False):
            await clock.done.wait()
        await broker.shutdown()
        return clock.jobs_per_second

    return {f"drain, {queue_type}": asyncio.run(run())}


def lateness(url: str, longer: int) -> Values:
    """Start of the handler after the delay that its label gives has passed since the call."""

    async def run() -> Values:
        dues = Dues(longer)
        broker = _new_broker(url)

        @broker.task(task_name=HANDLER)
        async def handle(delay: float, due: float) -> None:
            dues.started(delay, due)

        broker.is_worker_process = True
        await broker.startup()
        async with listening(broker, TASKS, run_startup=False):
            for delay in dues.delays:
                await handle.kicker().with_labels(delay=delay).kiq(delay, time.time() + delay)
            await dues.done.wait()
        await broker.shutdown()
        return dues.values

    return asyncio.run(run())
