"""redis:// beside its peers, and beside the least that each thing can cost there."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from importlib.metadata import version

from benchmarks import peer_saq, peer_streaq, peer_taskiq_redis, redis_floor, redis_ours
from benchmarks.growth import BATCH, MOST, SCHEDULED, WAITING
from benchmarks.growth import DRAIN as GROWTH_DRAIN
from benchmarks.growth import PERFORM as GROWTH_PERFORM
from benchmarks.harness import Contestant, Run, tell
from benchmarks.latency import LATENESS, PICK_UP, PICK_UPS
from benchmarks.latency import SCHEDULED as SCHEDULED_JOBS
from benchmarks.redis_server import info, private_server, program
from benchmarks.report import Report, Target, decimals, whole
from benchmarks.workload import CONCURRENCY

ONE, TASKS, BULK, DRAIN = "one at a time", "25 tasks", "perform_many", "drain"
OURS = "Offload redis://"
OURS_TIMEOUT = "Offload redis://, with a timeout"
PUSH = "redis-py, an awaited RPUSH each"
PROTOTYPE = "prototype: leased fetch of 100, batched ack"
PROTOTYPE_TIMEOUT = "prototype, with a timeout"
FAST = 5
"""So many times the jobs for the drains that are done in a moment: a window of a few hundredths of
a second says little."""
SAQ, STREAQ = "saq", "streaq, `enqueue_many` x 100"
TASKIQ, TASKIQ_100 = "taskiq-redis stream, 25 tasks", "taskiq-redis stream, 100 tasks"
PACKAGES = ("redis", "hiredis", "saq", "streaq", "coredis", "taskiq", "taskiq-redis")

GUARANTEES = {
    PUSH: "accepted survives the client; bytes in a list: no id, no script, nobody runs them",
    PROTOTYPE: "leased until acknowledged, but nobody takes over, retries or reconnects",
    PROTOTYPE_TIMEOUT: "the same, and an `asyncio.timeout` for each job",
    OURS: "acknowledged after the run: a kill in the handler runs it again within 20 s; a call "
    "whose answer is lost stores once; retries, dead letters, FIFO",
    OURS_TIMEOUT: "the same, and its handler is registered with a timeout; the default is none",
    SAQ: "active until finished: after a kill in the handler it is aborted at the default of no "
    "retries; unique by key; result kept 10 min",
    STREAQ: "acknowledged after the run, claimed by others after 60 s; result kept 5 min",
    TASKIQ: "acknowledged after the run, claimed by others after 10 min; no retry; the stream "
    "is never trimmed",
    TASKIQ_100: "the same; 100 at once is its default",
}
"""At the defaults, by their sources: see the peers' modules."""


def suite(rounds: int, jobs: int, sizes: Sequence[int], top: int) -> Report:
    """Measure, and compare."""
    report = Report("redis: one server")
    if program() is None:
        report.say("Not measured: there is no redis-server here.")
        return report
    with private_server() as url:
        packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
        report.say(
            f"Redis {info(url)['redis_version']} on loopback, the same server for everybody, "
            f"flushed between them: `appendonly yes`, `appendfsync everysec`, no snapshots and no "
            f"rewriting of the file. {packages}; no uvloop. Median (min-max) of {rounds} "
            "interleaved rounds, each measurement in a fresh process."
        )
        _throughput(report, url, rounds, jobs)
        _latency(report, url, rounds)
        for measure in (ONE, TASKS, BULK, DRAIN) if top else ():
            report.say(redis_ours.top(url, measure, jobs, top))
    _growth(report, rounds, sizes)
    return report


def _throughput(report: Report, url: str, rounds: int, jobs: int) -> None:
    size = {"url": url, "jobs": jobs}
    one, tasks = {**size, "tasks": 1}, {**size, "tasks": CONCURRENCY}
    many = {"url": url, "jobs": FAST * jobs}
    ours, prototype, taskiq = redis_ours.drain, redis_floor.drain, peer_taskiq_redis.drain
    for runs in (
        {
            PUSH: Run(redis_floor.enqueue, one),
            OURS: Run(redis_ours.enqueue, {**size, "perform": ONE}),
            SAQ: Run(peer_saq.enqueue, one),
        },
        {
            PUSH: Run(redis_floor.enqueue, tasks),
            OURS: Run(redis_ours.enqueue, {**size, "perform": TASKS}),
            SAQ: Run(peer_saq.enqueue, tasks),
        },
        {
            OURS: Run(redis_ours.enqueue, {**size, "perform": BULK}),
            STREAQ: Run(peer_streaq.enqueue_many, {**size, "batch": 100}),
        },
        {
            PROTOTYPE: Run(prototype, {**many, "timeout": None}),
            OURS: Run(ours, {**many, "timeout": None}),
            PROTOTYPE_TIMEOUT: Run(prototype, {**many, "timeout": 60}),
            OURS_TIMEOUT: Run(ours, {**many, "timeout": 60}),
            SAQ: Run(peer_saq.drain, size),
            TASKIQ: Run(taskiq, {**size, "concurrency": CONCURRENCY}),
            TASKIQ_100: Run(taskiq, {**size, "concurrency": 100}),
        },
    ):
        report.take_turns(runs, rounds)
    report.say(
        f"Jobs a second: {jobs:,} no-op `async def` jobs. Drain: by one worker process at "
        f"concurrency {CONCURRENCY}, read in the handler, once a tenth as many more have run; "
        f"{FAST * jobs:,} jobs for Offload and the prototype. saq's and taskiq's jobs have the "
        "timeouts of their defaults: 10 s and none."
    )
    contestants = [Contestant(name, [], promise) for name, promise in GUARANTEES.items()]
    report.measures(contestants, [ONE, TASKS, BULK, DRAIN], whole)
    report.targets(
        [
            Target(ONE, (OURS, ONE), [(PUSH, ONE)], at_least=0.75),
            Target(TASKS, (OURS, TASKS), [(SAQ, TASKS)], at_least=4),
            Target(BULK, (OURS, BULK), [(STREAQ, BULK)], at_least=4),
            Target(DRAIN, (OURS, DRAIN), [(TASKIQ, DRAIN), (TASKIQ_100, DRAIN)], at_least=8),
            Target(DRAIN, (OURS, DRAIN), [(SAQ, DRAIN)], at_least=8),
            Target(DRAIN, (OURS, DRAIN), [(PROTOTYPE, DRAIN)], at_least=0.45),
            Target(
                f"{DRAIN}, both with a timeout",
                (OURS_TIMEOUT, DRAIN),
                [(PROTOTYPE_TIMEOUT, DRAIN)],
                at_least=0.45,
            ),
        ]
    )


def _latency(report: Report, url: str, rounds: int) -> None:
    given = {"url": url}
    pick_up = {
        PROTOTYPE: Run(redis_floor.pick_up, given),
        OURS: Run(redis_ours.pick_up, given),
    }
    report.take_turns(pick_up, rounds)
    report.take_turns({OURS: Run(redis_ours.lateness, given)}, rounds)
    report.say(
        f"Milliseconds until a handler starts. Pick-up: {PICK_UPS} jobs a round, enqueued by "
        "another process one at a time with pauses of 10 to 60 ms, from before the call to the "
        "first line of the handler; the floor's worker is woken by BLPOP and fetches with one "
        f"script. Lateness: {SCHEDULED_JOBS} jobs a round, due in 1.0 to 1.5 s."
    )
    report.measures([Contestant(name, []) for name in pick_up], [*PICK_UP, *LATENESS], decimals)
    p50 = PICK_UP[0]
    report.targets([Target(p50, (OURS, p50), [(PROTOTYPE, p50)], at_most=1.2)])
    report.bounds(OURS, LATENESS[:1], {PICK_UP[1]: 2, LATENESS[1]: 2, LATENESS[2]: 5})


def _growth(report: Report, rounds: int, sizes: Sequence[int]) -> None:
    """A server for each size, so that one's jobs are no load for another's."""
    with ExitStack() as servers:
        steps: dict[str, Run] = {}
        for state in (WAITING, SCHEDULED):
            for size in sizes:
                name = _name(size, state)
                given = {"url": servers.enter_context(private_server()), "state": state}
                tell(f"filling: {name}")
                filled = Run(redis_ours.fill, {**given, "jobs": size})()
                report.samples.add(name, filled)
                steps[name] = Run(redis_ours.steps, given)
        report.take_turns(steps, rounds)
    report.say(
        f"Growth: {BATCH:,} jobs more are performed (25 tasks) and {BATCH:,} drained, with so "
        "many waiting or scheduled on a server that has nothing else."
    )
    contestants = [Contestant(name, []) for name in steps]
    report.measures(contestants, [GROWTH_PERFORM, GROWTH_DRAIN], decimals)
    report.measures(contestants, [redis_ours.MEMORY], whole)
    report.targets(
        [
            Target(
                f"{state}: {measure} at {sizes[-1]:,}",
                (_name(sizes[-1], state), measure),
                [(_name(sizes[0], state), measure)],
                at_most=MOST,
            )
            for state in (WAITING, SCHEDULED)
            for measure in (GROWTH_PERFORM, GROWTH_DRAIN)
        ]
    )


def _name(size: int, state: str) -> str:
    return f"{size:,} {state}"
