"""Offload with redis://, at its defaults."""

from __future__ import annotations

import asyncio
import cProfile
import gc
import io
import pstats
import random
import time
from datetime import UTC, datetime, timedelta

import offload
from benchmarks.growth import DRAIN as GROWTH_DRAIN
from benchmarks.growth import PERFORM as GROWTH_PERFORM
from benchmarks.growth import REPEATS, Gate, fill_up, step
from benchmarks.harness import Samples, Values, percentile
from benchmarks.latency import SCHEDULED, as_pick_up, idle_worker, picked_up_across
from benchmarks.redis_server import flush, info
from benchmarks.workload import HANDLER, PERFORM, DrainClock, in_bulk, jobs_per_second
from offload import Args, Job

MEMORY = "server memory a job, bytes"


def enqueue(url: str, perform: str, jobs: int) -> Values:
    """From the first perform until the last is accepted; nobody consumes meanwhile."""

    async def run(number: int) -> float:
        flush(url)
        worker = offload.connect(url)
        await in_bulk(worker, 1)  # connects
        began = time.perf_counter()
        await PERFORM[perform](worker, number)
        took = time.perf_counter() - began
        await worker.stop()
        return took

    return {perform: jobs_per_second(run, jobs)}


async def _drain(
    url: str, timeout: float | None, jobs: int, profiler: cProfile.Profile | None = None
) -> float:
    flush(url)
    clock = DrainClock(jobs)

    async def handle(_: Args) -> None:
        clock.tick()

    worker = offload.connect(url)
    worker.register(HANDLER, handle, timeout=timeout)
    await in_bulk(worker, clock.jobs)
    gc.collect()
    if profiler:
        profiler.enable()
    async with worker:
        await clock.done.wait()
    if profiler:
        profiler.disable()
    return clock.jobs_per_second


def drain(url: str, timeout: float | None, jobs: int) -> Values:
    """Run what waits."""
    return {"drain": asyncio.run(_drain(url, timeout, jobs))}


# -- latency -------------------------------------------------------------------


def pick_up(url: str) -> Values:
    """Perform in another process of this host, whose clock is the same."""

    async def run() -> list[float]:
        flush(url)
        return await picked_up_across(url)

    return as_pick_up(asyncio.run(run()))


def lateness(url: str) -> Values:
    """Start of the handler after the instant that `perform_at` was given."""

    async def run() -> list[float]:
        flush(url)
        async with idle_worker(url) as (worker, delays):
            for _ in range(SCHEDULED):
                when = datetime.now(UTC) + timedelta(seconds=random.uniform(1.0, 1.5))
                since = when - datetime(1970, 1, 1, tzinfo=UTC)
                nanoseconds = since // timedelta(microseconds=1) * 1000
                await worker.perform_at(Job(HANDLER, {"since": nanoseconds}), when)
            return [await delays.get() for _ in range(SCHEDULED)]

    found = asyncio.run(run())
    return {
        "lateness min": min(found),
        "lateness p50": percentile(found, 50),
        "lateness p99": percentile(found, 99),
    }


# -- growth --------------------------------------------------------------------


def fill(url: str, jobs: int, state: str) -> Values:
    """Give the server so many jobs."""

    async def run() -> None:
        worker = offload.connect(url)
        await fill_up(worker, jobs, state)
        await worker.stop()

    flush(url)
    before = info(url)["used_memory"]
    asyncio.run(run())
    return {MEMORY: (info(url)["used_memory"] - before) / jobs}


def steps(url: str, state: str) -> Values:
    """The costs with what is there."""

    async def run() -> Values:
        gate = Gate()
        found = Samples()
        worker = offload.connect(f"{url}?grace=0s")
        worker.register(HANDLER, gate.handle)
        async with worker:
            for repeat in range(REPEATS):
                took = await step(worker, gate, state)
                if repeat:
                    found.add("", took)
        return {name: found.median("", name) for name in (GROWTH_PERFORM, GROWTH_DRAIN)}

    return asyncio.run(run())


# -- profile -------------------------------------------------------------------


def top(url: str, measure: str, jobs: int, lines: int) -> str:
    """Where the time goes on the event loop, by the profiler, which makes small calls look big."""
    profiler = cProfile.Profile()

    async def run() -> None:
        if measure == "drain":
            await _drain(url, None, jobs, profiler)
            return
        flush(url)
        worker = offload.connect(url)
        await in_bulk(worker, 1)
        profiler.enable()
        await PERFORM[measure](worker, jobs)
        profiler.disable()
        await worker.stop()

    asyncio.run(run())
    text = io.StringIO()
    pstats.Stats(profiler, stream=text).strip_dirs().sort_stats("tottime").print_stats(lines)
    return f"{measure}, under cProfile, by own time:\n\n```\n{text.getvalue().strip()}\n```"
