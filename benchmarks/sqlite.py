"""sqlite:// beside huey's SqliteHuey, with the same care for the disk and without."""

from __future__ import annotations

import tempfile
import time

import offload
from benchmarks import peer_huey
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

DRAIN = "drain"
MEASURES = [*PERFORM, DRAIN]
NORMAL, FULL = "Offload sqlite://", "Offload sqlite://?synchronous=full"
HUEY_1, HUEY_25 = "huey, 1 thread", "huey, 25 threads"
HUEY_OFF_1, HUEY_OFF_25 = "huey fsync=False, 1 thread", "huey fsync=False, 25 threads"


def offload_enqueue(perform: str, options: str, jobs: int) -> Values:
    """From the first perform until the last is accepted; nobody consumes meanwhile."""

    async def run(number: int) -> float:
        with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
            worker = offload.connect(f"sqlite:///{folder}/jobs.db{options}")
            await in_bulk(worker, 1)  # opens the file
            began = time.perf_counter()
            await PERFORM[perform](worker, number)
            took = time.perf_counter() - began
            await worker.stop()
        return took

    return {perform: jobs_per_second(run, jobs)}


def offload_drain(options: str, jobs: int) -> Values:
    """From `start`, with everything performed before, to the last job run and acknowledged."""

    async def run(number: int) -> float:
        handle, done = countdown(number)
        with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
            worker = offload.connect(f"sqlite:///{folder}/jobs.db{options}")
            worker.register(HANDLER, handle)
            await in_bulk(worker, number)
            began = time.perf_counter()
            async with worker:
                await done.wait()
                await until_settled(worker)
                return time.perf_counter() - began

    return {DRAIN: jobs_per_second(run, jobs)}


def _ours(name: str, options: str, jobs: int, guarantee: str) -> Contestant:
    given = {"options": options, "jobs": jobs}
    enqueue = [Run(offload_enqueue, {"perform": perform, **given}) for perform in PERFORM]
    return Contestant(name, [*enqueue, Run(offload_drain, given)], guarantee)


def _huey(name: str, threads: int, fsync: bool | None, jobs: int, guarantee: str) -> Contestant:
    given = {"fsync": fsync, "jobs": jobs}
    runs = [
        Run(peer_huey.enqueue, {"threads": threads, **given}),
        Run(peer_huey.drain, {"workers": threads, **given}),
    ]
    if threads == 1:
        runs.insert(1, Run(peer_huey.enqueue_map, given))
    return Contestant(name, runs, guarantee)


def suite(rounds: int, jobs: int) -> Report:
    """Measure, and compare."""
    lost = "deleted before it runs: a kill in the handler loses it"
    kept = "acknowledged after the run: a kill in the handler runs it again"
    contestants = [
        _ours(NORMAL, "", jobs, f"accepted survives kill -9, not power loss; {kept}"),
        _ours(FULL, "?synchronous=full", jobs, f"accepted survives kill -9, power loss; {kept}"),
        *(
            _huey(name, threads, None, jobs, f"accepted survives kill -9, power loss; {lost}")
            for name, threads in ((HUEY_1, 1), (HUEY_25, CONCURRENCY))
        ),
        *(
            _huey(
                name,
                threads,
                False,
                jobs,
                f"accepted survives kill -9; power loss may damage the file; {lost}",
            )
            for name, threads in ((HUEY_OFF_1, 1), (HUEY_OFF_25, CONCURRENCY))
        ),
    ]
    report = Report("sqlite: in one file")
    report.say(
        f"Jobs a second: {jobs:,} no-op jobs, concurrency {CONCURRENCY}; median (min-max) of "
        f"{rounds} interleaved rounds, each in a fresh process, with files in "
        f"`{tempfile.gettempdir()}`. Handlers are `async def` for Offload, `def` for huey, "
        "which takes no other; huey's `perform_many` is `map`."
    )
    report.samples = take_turns(contestants, rounds)
    report.measures(contestants, MEASURES, whole)
    # The last pair has no target: it shows how much of the first is the disk that isn't waited for.
    pairs = [
        ("both at their defaults", NORMAL, (HUEY_1, HUEY_25), 3),
        ("both safe from power loss", FULL, (HUEY_1, HUEY_25), 3),
        ("neither waits for the disk", NORMAL, (HUEY_OFF_1, HUEY_OFF_25), None),
    ]
    report.targets(
        [
            Target(f"{measure}, {pair}", (ours, measure), _best(report, peers, measure), bound)
            for pair, ours, peers, bound in pairs
            for measure in MEASURES
        ]
    )
    return report


def _best(report: Report, peers: tuple[str, ...], measure: str) -> list[tuple[str, str]]:
    """What a peer's user could do instead: calling from one thread serves for 25 tasks too."""
    ways = [DRAIN] if measure == DRAIN else list(PERFORM)
    if measure == "one at a time":
        ways = [measure]
    return [(peer, way) for peer in peers for way in ways if report.samples.has(peer, way)]
