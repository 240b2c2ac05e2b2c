"""What an observer costs: nothing for the hooks that it doesn't implement."""

from __future__ import annotations

import time
from collections.abc import Callable

import offload
from benchmarks.harness import Contestant, Run, Values, take_turns
from benchmarks.report import Report, Target, whole
from benchmarks.workload import HANDLER, countdown, in_bulk, jobs_per_second, until_settled
from offload import JobContext, StopReport, Worker

NONE, AGAIN = "no observer", "no observer, again"
UNUSED, USED = "`worker_stopped` only", "`job_succeeded`"
MEASURE = "perform_many and drain"


class _Stopped:
    @offload.hookimpl
    def worker_stopped(self, worker: Worker, report: StopReport) -> None:
        """Not called while jobs run."""


class _Succeeded:
    @offload.hookimpl
    def job_succeeded(self, job: JobContext) -> None:
        """Called once a job."""


_OBSERVERS: dict[str, Callable[[], object]] = {UNUSED: _Stopped, USED: _Succeeded}


def observed(observer: str, jobs: int) -> Values:
    """As in the simple suite, with this observer, if it is one."""

    async def run(number: int) -> float:
        handle, done = countdown(number)
        worker = offload.connect("simple://")
        worker.register(HANDLER, handle)
        if observer in _OBSERVERS:
            worker.observe(_OBSERVERS[observer]())
        async with worker:
            began = time.perf_counter()
            await in_bulk(worker, number)
            await done.wait()
            await until_settled(worker)
            return time.perf_counter() - began

    return {MEASURE: jobs_per_second(run, jobs)}


def suite(rounds: int, jobs: int) -> Report:
    """Measure, with a control: how far apart two equal contestants come out."""
    contestants = [
        Contestant(name, [Run(observed, {"observer": name, "jobs": jobs})])
        for name in (NONE, UNUSED, USED, AGAIN)
    ]
    report = Report("observers: what a hook costs on simple://")
    report.say(f"Jobs a second, {jobs:,} no-op jobs; median (min-max) of {rounds} rounds.")
    report.samples = take_turns(contestants, rounds)
    report.measures(contestants, [MEASURE], whole)
    report.targets(
        [
            Target("the control: " + AGAIN, (AGAIN, MEASURE), [(NONE, MEASURE)], 0.95),
            Target("an unused hook: " + UNUSED, (UNUSED, MEASURE), [(NONE, MEASURE)], 0.95),
            Target("a used hook: " + USED, (USED, MEASURE), [(NONE, MEASURE)]),
        ]
    )
    return report
