"""How soon a handler starts: after a perform on an idle worker, and after a due time."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta

import offload
from benchmarks.harness import CHECKOUT, Contestant, Run, Values, percentile, take_turns
from benchmarks.report import Report, decimals
from benchmarks.workload import HANDLER
from offload import Args, Job, Worker

PICK_UPS = 200
SCHEDULED = 100
SIMPLE, SQLITE, ACROSS = "simple://", "sqlite://", "sqlite://, performed by another process"
PICK_UP = ["pick-up p50", "pick-up p99"]
LATENESS = ["lateness min", "lateness p50", "lateness p99"]
LATENESS_LONGER = ["longer delays min", "longer delays p50", "longer delays p99"]
SHORT, LONGER = (1.0, 1.5), (3.0, 6.0)
"""Seconds from the call until a job is due, for `Dues`."""


@contextmanager
def _url(scheme: str) -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        yield "simple://" if scheme == "simple" else f"sqlite:///{folder}/jobs.db"


@asynccontextmanager
async def idle_worker(url: str) -> AsyncIterator[tuple[Worker, asyncio.Queue[float]]]:
    """A worker, and the delays that its handler saw: milliseconds since `args["since"]`."""
    delays: asyncio.Queue[float] = asyncio.Queue()

    async def handle(args: Args) -> None:
        delays.put_nowait((time.time_ns() - args["since"]) / 1e6)

    worker = offload.connect(url)
    worker.register(HANDLER, handle)
    async with worker:
        yield worker, delays


async def perform_with_pauses(worker: Worker, number: int) -> None:
    """One job at a time, each after the worker has been idle for a while."""
    for _ in range(number):
        await asyncio.sleep(random.uniform(0.01, 0.06))
        await worker.perform(Job(HANDLER, {"since": time.time_ns()}))


def pick_up(scheme: str) -> Values:
    """Perform and run in one process."""

    async def run(url: str) -> list[float]:
        async with idle_worker(url) as (worker, delays):
            await perform_with_pauses(worker, PICK_UPS)
            return [await delays.get() for _ in range(PICK_UPS)]

    with _url(scheme) as url:
        return as_pick_up(asyncio.run(run(url)))


def pick_up_across() -> Values:
    """Perform in another process of this host, whose clock is the same."""
    with _url("sqlite") as url:
        return as_pick_up(asyncio.run(picked_up_across(url)))


async def picked_up_across(url: str) -> list[float]:
    """The delays of a worker here, whose jobs another process performs."""
    async with idle_worker(url) as (_, delays):
        return await answers(delays, "benchmarks.latency", url)


async def answers(delays: asyncio.Queue[float], module: str, url: str) -> list[float]:
    """What a module makes us find, run in a process of its own."""
    performer = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, url), cwd=CHECKOUT, stdout=subprocess.DEVNULL
    )
    found = [await delays.get() for _ in range(PICK_UPS)]
    await performer.wait()
    return found


def as_pick_up(delays: list[float]) -> Values:
    """The measures of these delays."""
    # The first ones open files and fill caches.
    settled = delays[len(delays) // 10 :]
    return {"pick-up p50": percentile(settled, 50), "pick-up p99": percentile(settled, 99)}


class Dues:
    """Short delays among some longer ones, in the same order for everybody; how late each came."""

    def __init__(self, longer: int) -> None:
        dice = random.Random(1)
        self.delays = [dice.uniform(*SHORT) for _ in range(SCHEDULED)]
        self.delays += [dice.uniform(*LONGER) for _ in range(longer)]
        """Seconds, one for each job."""
        dice.shuffle(self.delays)
        self.done = asyncio.Event()
        self._late: dict[str, list[float]] = {"lateness": [], "longer delays": []}

    def started(self, delay: float, due: float) -> None:
        """A handler runs: the job had this delay, and was due at that time since the epoch."""
        late = (time.time() - due) * 1e3
        self._late["lateness" if delay <= SHORT[1] else "longer delays"].append(late)
        if sum(map(len, self._late.values())) == len(self.delays):
            self.done.set()

    @property
    def values(self) -> Values:
        """Behind `done`."""
        return {
            f"{kind} {measure}": found
            for kind, late in self._late.items()
            if late
            for measure, found in (
                ("min", min(late)),
                ("p50", percentile(late, 50)),
                ("p99", percentile(late, 99)),
            )
        }


def lateness(scheme: str) -> Values:
    """Start of the handler after the instant that `perform_at` was given."""

    async def run(url: str) -> list[float]:
        async with idle_worker(url) as (worker, delays):
            for _ in range(SCHEDULED):
                when = datetime.now(UTC) + timedelta(seconds=random.uniform(1.0, 1.5))
                since = when - datetime(1970, 1, 1, tzinfo=UTC)
                nanoseconds = since // timedelta(microseconds=1) * 1000
                await worker.perform_at(Job(HANDLER, {"since": nanoseconds}), when)
            return [await delays.get() for _ in range(SCHEDULED)]

    with _url(scheme) as url:
        found = asyncio.run(run(url))
    return {
        "lateness min": min(found),
        "lateness p50": percentile(found, 50),
        "lateness p99": percentile(found, 99),
    }


def suite(rounds: int) -> Report:
    """Measure."""
    contestants = [
        *(
            Contestant(
                f"{scheme}://",
                [Run(pick_up, {"scheme": scheme}), Run(lateness, {"scheme": scheme})],
            )
            for scheme in ("simple", "sqlite")
        ),
        Contestant(ACROSS, [Run(pick_up_across)]),
    ]
    report = Report("latency: until a handler starts")
    report.say(
        f"Milliseconds; median (min-max) of {rounds} interleaved rounds. Pick-up: {PICK_UPS} jobs "
        "a round, one at a time with pauses of 10 to 60 ms, from the call of `perform` to the "
        f"first line of the handler. Lateness: {SCHEDULED} jobs a round, due in 1.0 to 1.5 s."
    )
    report.samples = take_turns(contestants, rounds)
    report.measures(contestants, [*PICK_UP, *LATENESS], decimals)
    earliest = min(min(report.samples.all(name, "lateness min")) for name in (SIMPLE, SQLITE))
    report.say(
        f"Earliest of all: {earliest:.2f} ms after its due time"
        + (": never early." if earliest >= 0 else ": **EARLY**.")
    )
    return report


if __name__ == "__main__":
    # The performing process of `pick_up_across`.
    async def _perform() -> None:
        worker = offload.connect(sys.argv[1])
        await perform_with_pauses(worker, PICK_UPS)
        await worker.stop()

    asyncio.run(asyncio.wait_for(_perform(), 120))
