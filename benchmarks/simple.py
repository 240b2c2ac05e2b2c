"""simple:// beside the least that can be done in one process, and beside taskiq."""

from __future__ import annotations

import asyncio
import time

from taskiq import InMemoryBroker

import offload
from benchmarks.harness import Contestant, Run, Values, take_turns
from benchmarks.report import Report, Target, whole
from benchmarks.workload import (
    CONCURRENCY,
    HANDLER,
    PERFORM,
    countdown,
    in_bulk,
    jobs_per_second,
    until_settled,
)

ALL, DRAIN = "perform and drain", "drain"
FLOOR = "asyncio.Queue, a task per job"
TASKIQ = "taskiq InMemoryBroker, `kiq`"


def floor(jobs: int) -> Values:
    """The floor: put everything into a bare queue, then 25 consumers run a task for each."""
    return {ALL: jobs_per_second(_floor_all, jobs), DRAIN: jobs_per_second(_floor_drain, jobs)}


async def _floor_all(jobs: int) -> float:
    began = time.perf_counter()
    await _drain_queue(_filled_queue(jobs), jobs)
    return time.perf_counter() - began


async def _floor_drain(jobs: int) -> float:
    queue = _filled_queue(jobs)
    began = time.perf_counter()
    await _drain_queue(queue, jobs)
    return time.perf_counter() - began


def _filled_queue(jobs: int) -> asyncio.Queue[dict[str, object]]:
    queue: asyncio.Queue[dict[str, object]] = asyncio.Queue()
    for _ in range(jobs):
        queue.put_nowait({"x": 1.0})
    return queue


async def _drain_queue(queue: asyncio.Queue[dict[str, object]], jobs: int) -> None:
    handle, done = countdown(jobs)
    loop = asyncio.get_running_loop()

    async def consume() -> None:
        while True:
            await loop.create_task(handle(await queue.get()))

    consumers = [loop.create_task(consume()) for _ in range(CONCURRENCY)]
    await done.wait()
    for consumer in consumers:
        consumer.cancel()


def offload_all(perform: str, jobs: int) -> Values:
    """From the first perform to the last job run and acknowledged, by a worker that runs."""

    async def run(number: int) -> float:
        handle, done = countdown(number)
        worker = offload.connect("simple://")
        worker.register(HANDLER, handle)
        async with worker:
            began = time.perf_counter()
            await PERFORM[perform](worker, number)
            await done.wait()
            await until_settled(worker)
            return time.perf_counter() - began

    return {ALL: jobs_per_second(run, jobs)}


def offload_drain(jobs: int) -> Values:
    """From `start`, with everything performed before, to the last job run and acknowledged."""

    async def run(number: int) -> float:
        handle, done = countdown(number)
        worker = offload.connect("simple://")
        worker.register(HANDLER, handle)
        await in_bulk(worker, number)
        began = time.perf_counter()
        async with worker:
            await done.wait()
            await until_settled(worker)
            return time.perf_counter() - began

    return {DRAIN: jobs_per_second(run, jobs)}


def taskiq_all(jobs: int) -> Values:
    """Send one at a time, as its users do, and wait for all, at its defaults."""

    async def run(number: int) -> float:
        handle, _ = countdown(number)
        broker = InMemoryBroker()
        task = broker.task(task_name=HANDLER)(handle)
        await broker.startup()
        began = time.perf_counter()
        for _ in range(number):
            await task.kiq({"x": 1.0})
        await broker.wait_all()
        took = time.perf_counter() - began
        await broker.shutdown()
        return took

    return {ALL: jobs_per_second(run, jobs)}


def suite(rounds: int, jobs: int) -> Report:
    """Measure, and compare."""
    size = {"jobs": jobs}
    ours = {name: f"Offload simple://, {name}" for name in PERFORM}
    contestants = [
        Contestant(
            FLOOR,
            [Run(floor, size)],
            "none: args by reference, no id, no retry, no drain; lost with the process",
        ),
        *(
            Contestant(
                title,
                [
                    Run(offload_all, {"perform": name, **size}),
                    # What was performed before the start doesn't matter to the drain.
                    *([Run(offload_drain, size)] if name == "perform_many" else []),
                ],
                "args validated and captured as bytes, id, a context for each job, retries, "
                "dead letters, at most 25 at once; lost with the process",
            )
            for name, title in ours.items()
        ),
        Contestant(
            TASKIQ,
            [Run(taskiq_all, size)],
            "args captured as JSON, id, the last 100 results kept; no retry, no bound on what "
            "runs at once; lost with the process",
        ),
    ]
    report = Report("simple: in one process")
    report.say(
        f"Jobs a second: {jobs:,} no-op `async def` jobs, concurrency {CONCURRENCY}; "
        f"median (min-max) of {rounds} interleaved rounds, each in a fresh process."
    )
    report.samples = take_turns(contestants, rounds)
    report.measures(contestants, [ALL, DRAIN], whole)
    report.targets(
        [
            *(
                Target(f"{name}, {ALL}", (title, ALL), [(FLOOR, ALL)], at_least=0.45)
                for name, title in ours.items()
            ),
            Target(DRAIN, (ours["perform_many"], DRAIN), [(FLOOR, DRAIN)], at_least=0.45),
            *(
                Target(f"{name}, {ALL}", (title, ALL), [(TASKIQ, ALL)], at_least=5)
                for name, title in ours.items()
            ),
        ]
    )
    return report
