"""What a waiting job costs: in memory, in the file, and for the jobs that come after it."""

from __future__ import annotations

import asyncio
import gc
import os
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import offload
from benchmarks.harness import Contestant, Run, Samples, Values, take_turns, tell
from benchmarks.report import Report, Target, decimals, whole
from benchmarks.workload import HANDLER, by_25_tasks, in_25_tasks, in_bulk, some_jobs
from offload import Args, Worker

SIZES = (1_000, 100_000, 1_000_000)
LARGEST_SIMPLE = 100_000
"""More than this is no sensible use of the memory of one process."""
BATCH = 1000
"""How many more jobs are performed and drained at each size."""
REPEATS = 8
"""Times in each process; the first is the warm-up."""
PAUSE = 0.7
"""Seconds after which a worker whose handlers all wait has given back what it had prefetched."""
FILL = 10_000
"""Jobs are added in calls of so many, so that the caller's own lists don't count as memory."""
PERFORM, DRAIN = "perform 1,000 more, ms", "drain 1,000, ms"
WAITING, SCHEDULED = "waiting", "scheduled"
MEMORY, FILE = "process memory a job, bytes", "file a job, bytes"
MOST = 1.2


class Gate:
    """A handler that lets so many runs pass, and holds the others at its first line."""

    def __init__(self) -> None:
        self._left = 0
        self._opened = asyncio.Event()
        self.passed = asyncio.Event()

    def open_for(self, runs: int) -> None:
        """Let so many pass, and set `passed` behind the last."""
        self._left = runs
        self.passed.clear()
        self._opened.set()

    async def handle(self, _: Args) -> None:
        """The handler."""
        while not self._left:
            await self._opened.wait()
        self._left -= 1
        if not self._left:
            self._opened.clear()
            self.passed.set()


def _resident() -> int:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def _schedule(worker: Worker, jobs: int, when: datetime) -> None:
    async def perform(share: int) -> None:
        for job in some_jobs(share):
            await worker.perform_at(job, when)

    await in_25_tasks(perform, jobs)


async def fill_up(worker: Worker, jobs: int, state: str) -> float:
    """Add them; return how many bytes the process has grown for each."""
    await in_bulk(worker, 1)
    before = _resident()
    for added in range(0, jobs, FILL):
        number = min(FILL, jobs - added)
        if state == WAITING:
            await in_bulk(worker, number)
        else:
            await _schedule(worker, number, datetime.now(UTC) + timedelta(days=1))
    return (_resident() - before) / jobs


async def step(worker: Worker, gate: Gate, state: str) -> Values:
    """Perform so many more and drain as many, so that the size stays what it is."""
    if state == WAITING:
        await asyncio.sleep(PAUSE)
        began = time.perf_counter()
        await by_25_tasks(worker, BATCH)
        performed = time.perf_counter()
        await asyncio.sleep(PAUSE)
        due = time.time()
        gate.open_for(BATCH)
    else:
        gate.open_for(BATCH)
        due = time.time() + PAUSE
        began = time.perf_counter()
        await _schedule(worker, BATCH, datetime.fromtimestamp(due, UTC))
        performed = time.perf_counter()
    await gate.passed.wait()
    return {PERFORM: (performed - began) * 1e3, DRAIN: (time.time() - due) * 1e3}


def fill_file(folder: str, jobs: int, state: str) -> Values:
    """Make a database with so many jobs."""

    async def run() -> float:
        worker = offload.connect(_url(folder))
        grown = await fill_up(worker, jobs, state)
        await worker.stop()
        return grown

    grown = asyncio.run(run())
    size = sum(file.stat().st_size for file in Path(folder).iterdir())
    return {MEMORY: grown, FILE: size / jobs}


def steps(folder: str | None, jobs: int, state: str) -> Values:
    """The costs at this size: in the database of this folder, else in memory."""

    async def run() -> Values:
        gate = Gate()
        found = Samples()
        worker = offload.connect(_url(folder))
        worker.register(HANDLER, gate.handle)
        values = {} if folder else {MEMORY: await fill_up(worker, jobs, state)}
        async with worker:
            for repeat in range(REPEATS):
                took = await step(worker, gate, state)
                if repeat:
                    found.add("", took)
        return values | {name: found.median("", name) for name in (PERFORM, DRAIN)}

    return asyncio.run(run())


def _url(folder: str | None) -> str:
    return f"sqlite:///{folder}/jobs.db?grace=0s" if folder else "simple://?grace=0s"


def suite(rounds: int, sizes: Sequence[int]) -> Report:
    """Fill a database for each size, then measure at all of them in turn."""
    report = Report("growth: what a waiting job costs")
    report.say(
        f"At each size {BATCH:,} jobs more are performed (25 tasks) and {BATCH:,} drained; a "
        "scheduled job's drain counts from the instant at which all of them are due. Median "
        f"(min-max) of {rounds} interleaved rounds, each in a fresh process, where each value is "
        f"the median of {REPEATS - 1} repeats."
    )
    with tempfile.TemporaryDirectory(prefix="benchmark-") as root:
        contestants = []
        for state in (WAITING, SCHEDULED):
            for size in sizes:
                name = _name("sqlite", size, state)
                folder = Path(root, f"{state}-{size}")
                folder.mkdir()
                given = {"folder": str(folder), "jobs": size, "state": state}
                tell(f"filling: {name}")
                report.samples.add(name, Run(fill_file, given)())
                contestants.append(Contestant(name, [Run(steps, given)]))
        for state in (WAITING, SCHEDULED):
            for size in _simple(sizes):
                given = {"folder": None, "jobs": size, "state": state}
                contestants.append(Contestant(_name("simple", size, state), [Run(steps, given)]))
        report.samples.update(take_turns(contestants, rounds))
    report.measures(contestants, [PERFORM, DRAIN], decimals)
    report.measures(contestants, [MEMORY, FILE], whole)
    report.targets(
        [
            Target(
                f"{scheme}, {state}: {measure} at {group[-1]:,}",
                (_name(scheme, group[-1], state), measure),
                [(_name(scheme, group[0], state), measure)],
                at_most=MOST,
            )
            for scheme, group in (("sqlite", sizes), ("simple", _simple(sizes)))
            for state in (WAITING, SCHEDULED)
            for measure in (PERFORM, DRAIN)
        ]
    )
    return report


def _simple(sizes: Sequence[int]) -> list[int]:
    return [size for size in sizes if size <= LARGEST_SIMPLE]


def _name(scheme: str, size: int, state: str) -> str:
    return f"{scheme}://, {size:,} {state}"
