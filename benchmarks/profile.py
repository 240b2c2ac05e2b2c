"""What the engine adds to its driver: the same calls, in the same batches, with and without it."""

from __future__ import annotations

import asyncio
import contextvars
import cProfile
import io
import pstats
import statistics
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import offload_simple
import offload_sqlite
from benchmarks.harness import Contestant, Run, Values, take_turns, tell
from benchmarks.report import Report, Target, decimals
from benchmarks.workload import HANDLER, countdown, in_bulk, until_settled
from offload import Delivery, Entry, Fetched, Settlement, Verdict, envelope
from offload.config import parse_address, read_config
from offload.engine import DriverWorker
from offload.job import new_job_id

ADAPTERS = {"simple": offload_simple.ADAPTER, "sqlite": offload_sqlite.ADAPTER}
ENQUEUE, DRAIN, CPU = "enqueue", "drain", "drain, processor time"
ALONE, TASKS, ENGINE = "driver alone", "driver, and a task per job", "worker"
MOST = 1.2


class _Counting:
    """A driver, or its subscription, that notes how many jobs each call carried."""

    def __init__(self, inner: Any, sizes: dict[str, list[int]]) -> None:
        self._inner = inner
        self._sizes = sizes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def enqueue(self, entries: Sequence[Entry]) -> None:
        self._sizes["enqueue"].append(len(entries))
        await self._inner.enqueue(entries)

    async def subscribe(self, queues: Sequence[str]) -> _Counting:
        return _Counting(await self._inner.subscribe(queues), self._sizes)

    async def fetch(self, limit: int) -> Fetched:
        fetched: Fetched = await self._inner.fetch(limit)
        if fetched.deliveries:
            self._sizes["fetch"].append(len(fetched.deliveries))
        return fetched

    async def settle(self, settlements: Sequence[Settlement]) -> Collection[Delivery]:
        self._sizes["settle"].append(len(settlements))
        foreign: Collection[Delivery] = await self._inner.settle(settlements)
        return foreign


@contextmanager
def _driver(scheme: str) -> Iterator[Any]:
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        yield ADAPTERS[scheme].make(_config(scheme, folder))


def _config(scheme: str, folder: str = "") -> Any:
    path = f"/{folder}/jobs.db" if scheme == "sqlite" else ""
    return read_config(parse_address(f"{scheme}://{path}"), ADAPTERS[scheme].options)


def _worker(scheme: str, driver: Any) -> DriverWorker:
    adapter = ADAPTERS[scheme]
    return DriverWorker(driver, _config(scheme, "-"), adapter.claims, adapter.limits)


class _Stopwatch:
    """Microseconds a job since it was started, by the clock and by the processor."""

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._began = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        """Both."""
        wall, cpu = self._began
        scale = 1e6 / self._jobs
        return (time.perf_counter() - wall) * scale, (time.process_time() - cpu) * scale


async def _through_worker(scheme: str, driver: Any, jobs: int) -> Values:
    handle, done = countdown(jobs)
    worker = _worker(scheme, driver)
    worker.register(HANDLER, handle)
    await in_bulk(worker, 0)
    watch = _Stopwatch(jobs)
    await in_bulk(worker, jobs)
    enqueue, _ = watch.read()
    watch = _Stopwatch(jobs)
    async with worker:
        await done.wait()
        await until_settled(worker)
        drain, cpu = watch.read()
    return {ENQUEUE: enqueue, DRAIN: drain, CPU: cpu}


def engine(scheme: str, jobs: int) -> Values:
    """`perform_many`, then start and drain."""
    for number in (jobs // 10, jobs):
        with _driver(scheme) as driver:
            values = asyncio.run(_through_worker(scheme, driver, number))
    return values


def batches(scheme: str, jobs: int) -> Values:
    """How many jobs the engine gave each call, on average."""
    sizes: dict[str, list[int]] = {"enqueue": [], "fetch": [], "settle": []}
    with _driver(scheme) as driver:
        asyncio.run(_through_worker(scheme, _Counting(driver, sizes), jobs))
    return {call: statistics.mean(found) for call, found in sizes.items()}


def alone(scheme: str, jobs: int, sizes: dict[str, float], tasks: bool) -> Values:
    """Enqueue, fetch and settle in batches of these sizes, and nothing else, or a task for each."""
    for number in (jobs // 10, jobs):
        with _driver(scheme) as driver:
            values = asyncio.run(_without_worker(driver, number, sizes, tasks))
    return values


async def _without_worker(driver: Any, jobs: int, sizes: dict[str, float], tasks: bool) -> Values:
    run = _run_tasks if tasks else _run_nothing
    now = time.time_ns() // 1_000_000
    entries = []
    for _ in range(jobs):
        job_id = new_job_id(now)
        body = envelope.encode(job_id, HANDLER, now, b'{"x":1.0}')
        entries.append(Entry(job_id, "default", body))
    await driver.open()
    step = round(sizes["enqueue"])
    watch = _Stopwatch(jobs)
    for begin in range(0, jobs, step):
        await driver.enqueue(entries[begin : begin + step])
    enqueue, _ = watch.read()

    subscription = await driver.subscribe(["default"])
    unsettled: list[Settlement] = []
    watch = _Stopwatch(jobs)
    while fetched := (await subscription.fetch(round(sizes["fetch"]))).deliveries:
        await run(fetched)
        unsettled += [Settlement(delivery, Verdict.ACKNOWLEDGE) for delivery in fetched]
        if len(unsettled) >= sizes["settle"]:
            await subscription.settle(unsettled)
            unsettled = []
    await subscription.settle(unsettled)
    drain, cpu = watch.read()
    if subscription is not driver:
        await subscription.close()
    await driver.close()
    return {ENQUEUE: enqueue, DRAIN: drain, CPU: cpu}


async def _run_nothing(_: Sequence[Delivery]) -> None:
    pass


async def _run_tasks(deliveries: Sequence[Delivery]) -> None:
    """The least that a job costs any engine: decode it, and run it in a task and a context."""
    handle, done = countdown(len(deliveries))
    loop = asyncio.get_running_loop()
    context = contextvars.copy_context()
    running = [
        loop.create_task(handle(envelope.decode(each.body).args), context=context.copy())
        for each in deliveries
    ]
    await done.wait()
    del running


def top(scheme: str, jobs: int, lines: int) -> str:
    """Where the time goes on the event loop, by the profiler, which makes small calls look big."""
    profiler = cProfile.Profile()
    with _driver(scheme) as driver:
        profiler.enable()
        asyncio.run(_through_worker(scheme, driver, jobs))
        profiler.disable()
    text = io.StringIO()
    pstats.Stats(profiler, stream=text).strip_dirs().sort_stats("tottime").print_stats(lines)
    return f"```\n{text.getvalue().strip()}\n```"


def suite(rounds: int, jobs: int, lines: int) -> Report:
    """Ask the engine for its batches, then measure the drivers with just those."""
    report = Report("profile: the engine over its driver")
    contestants: list[Contestant] = []
    for scheme in ADAPTERS:
        tell(f"batches of {scheme}")
        sizes = Run(batches, {"scheme": scheme, "jobs": jobs})()
        given = {"scheme": scheme, "jobs": jobs}
        raw = {**given, "sizes": sizes}
        contestants += [
            Contestant(f"{scheme}, {ALONE}", [Run(alone, {**raw, "tasks": False})]),
            Contestant(f"{scheme}, {TASKS}", [Run(alone, {**raw, "tasks": True})]),
            Contestant(f"{scheme}, {ENGINE}", [Run(engine, given)]),
        ]
        counts = ", ".join(f"{call} {size:.0f}" for call, size in sizes.items())
        report.say(f"Jobs a call that the engine makes of {scheme}, on average: {counts}.")
    report.say(
        f"Microseconds a job; {jobs:,} no-op jobs; median (min-max) of {rounds} interleaved "
        "rounds, each in a fresh process. The driver alone runs nothing and decodes nothing."
    )
    report.samples = take_turns(contestants, rounds)
    report.measures(contestants, [ENQUEUE, DRAIN, CPU], decimals)
    report.targets(
        [
            Target(
                f"{scheme}: {measure}",
                (f"{scheme}, {ENGINE}", measure),
                [(f"{scheme}, {peer}", measure)],
                at_most=MOST,
            )
            for scheme in ADAPTERS
            for measure, peer in ((ENQUEUE, ALONE), (DRAIN, ALONE), (DRAIN, TASKS))
        ]
    )
    if lines:
        for scheme in ADAPTERS:
            report.say(f"{scheme}, under cProfile, by own time:\n\n{top(scheme, jobs, lines)}")
    return report
