"""Offload with amqp://, at its defaults."""

from __future__ import annotations

import asyncio
import gc
import time
from datetime import UTC, datetime, timedelta

import offload
from benchmarks.harness import Values
from benchmarks.latency import Dues, as_pick_up, picked_up_across
from benchmarks.workload import (
    CONCURRENCY,
    HANDLER,
    DrainClock,
    enqueue_measure,
    in_bulk,
    in_tasks,
    jobs_per_second,
    one_at_a_time,
)
from offload import Args, Job, Worker


def _connect(url: str, queue_type: str = "quorum") -> Worker:
    return offload.connect(_config(url, queue_type))


def _config(url: str, queue_type: str = "quorum") -> str:
    return f"{url}?namespace=benchmark&concurrency={CONCURRENCY}&queue_type={queue_type}"


def enqueue(url: str, tasks: int, jobs: int) -> Values:
    """From so many tasks, each one job at a time."""

    async def run(number: int) -> float:
        worker = _connect(url)
        await in_bulk(worker, 1)  # connects, and declares the queue
        began = time.perf_counter()
        await in_tasks(tasks, lambda share: one_at_a_time(worker, share), number)
        took = time.perf_counter() - began
        await worker.stop()
        return took

    return {enqueue_measure(tasks): jobs_per_second(run, jobs)}


def enqueue_many(url: str, jobs: int) -> Values:
    """All in one call."""

    async def run(number: int) -> float:
        worker = _connect(url)
        await in_bulk(worker, 1)
        began = time.perf_counter()
        await in_bulk(worker, number)
        took = time.perf_counter() - began
        await worker.stop()
        return took

    return {"perform_many": jobs_per_second(run, jobs)}


def drain(url: str, queue_type: str, jobs: int) -> Values:
    """Run what waits."""

    async def run() -> float:
        clock = DrainClock(jobs)

        async def handle(_: Args) -> None:
            clock.tick()

        worker = _connect(url, queue_type)
        worker.register(HANDLER, handle)
        await in_bulk(worker, clock.jobs)
        gc.collect()
        async with worker:
            await clock.done.wait()
        return clock.jobs_per_second

    return {f"drain, {queue_type}": asyncio.run(run())}


def pick_up(url: str) -> Values:
    """Perform in another process of this host, whose clock is the same."""
    return as_pick_up(asyncio.run(picked_up_across(_config(url))))


def lateness(url: str, longer: int) -> Values:
    """Start of the handler after the instant that `perform_at` was given."""

    async def run() -> Values:
        dues = Dues(longer)

        async def handle(args: Args) -> None:
            dues.started(args["delay"], args["due"])

        worker = _connect(url)
        worker.register(HANDLER, handle)
        async with worker:
            for delay in dues.delays:
                when = datetime.now(UTC) + timedelta(seconds=delay)
                args = {"delay": delay, "due": when.timestamp()}
                await worker.perform_at(Job(HANDLER, args), when)
            await dues.done.wait()
        return dues.values

    return asyncio.run(run())
