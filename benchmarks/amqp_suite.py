"""amqp:// beside its peers, and beside a client used barely."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.metadata import version
from typing import TypeAlias

from benchmarks import amqp_floor, amqp_ours, peer_celery, peer_dramatiq, peer_taskiq_amqp
from benchmarks.amqp_broker import private_broker, program, url_of, version_of
from benchmarks.harness import Contestant, Run
from benchmarks.latency import (
    LATENESS,
    LATENESS_LONGER,
    LONGER,
    PICK_UP,
    PICK_UPS,
    SCHEDULED,
    SHORT,
)
from benchmarks.report import Report, Target, decimals, whole
from benchmarks.workload import CONCURRENCY, enqueue_measure

ONE, TASKS, BULK = enqueue_measure(1), enqueue_measure(100), "perform_many"
QUORUM, CLASSIC = "quorum", "classic"
DRAIN, DRAIN_CLASSIC = "drain, quorum", "drain, classic"
LONGER_JOBS = 50

FLOOR = "aiormq, the bare client"
OURS = "Offload amqp://"
TASKIQ, TASKIQ_100 = "taskiq-aio-pika", "taskiq-aio-pika, prefetch 100"
TASKIQ_SHORT = "taskiq-aio-pika, no longer delays among them"
CELERY, CELERY_THREADS = "celery, solo, prefetch 100", f"celery, {CONCURRENCY} threads"
CELERY_ETA = "celery, solo, no limit of the prefetch"
DRAMATIQ = "dramatiq, 8 threads"
PACKAGES = (
    *("aiormq", "pamqp", "taskiq", "taskiq-aio-pika", "aio-pika"),
    *("celery", "kombu", "amqp", "dramatiq", "pika"),
)

GUARANTEES = {
    FLOOR: "confirmed, mandatory; prefetch 100, acknowledged after the run, one by one; nobody "
    "retries, delays or reconnects",
    OURS: "confirmed, and what can't be routed raises; acknowledged after the run: a kill in the "
    "handler runs it again; retries, dead letters, durable delays, FIFO",
    TASKIQ: "confirmed; what can't be routed is lost in silence; acknowledged after the run: a "
    "kill in the handler runs it again; no retry; 100 at once, prefetch 10: its defaults",
    TASKIQ_100: "the same, more prefetched",
    CELERY: "confirmed and acknowledged after the run because we say so: by default it isn't "
    "confirmed, and is acknowledged before; what can't be routed is lost in silence; a kill in "
    "the handler runs it again; no retry; one plain function at a time; its default prefetch is 4",
    CELERY_THREADS: "the same, as many at once as Offload; prefetch 100 is its default",
    DRAMATIQ: "classic queues alone; confirmed because we say so; acknowledged after the run: a "
    "kill in the handler runs it again; retries, dead letters",
}
"""By their sources: see the peers' modules."""

Measure: TypeAlias = Callable[[Mapping[str, Run]], None]


def suite(rounds: int, jobs: int) -> Report:
    """Measure, and compare."""
    report = Report("amqp: one broker")
    if program() is None:
        report.say("Not measured: there is no rabbitmq-server here.")
        return report
    with private_broker() as broker:
        url = url_of(broker)
        packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
        report.say(
            f"{version_of(url)}, one node on loopback, the same for everybody; all queues are "
            "deleted between them. Durable queues, persistent messages, confirmed publishes and "
            f"late acknowledgements for all. {packages}; no uvloop. Median (min-max) of {rounds} "
            "interleaved rounds, each measurement in a fresh process."
        )

        def measure(runs: Mapping[str, Run]) -> None:
            # Far more than anybody needs: whoever takes longer hangs.
            limited = {name: replace(run, seconds=120 + jobs / 50) for name, run in runs.items()}
            report.take_turns(limited, rounds, lambda: broker.clear(""))

        # The first one would find a broker that has never worked.
        Run(amqp_floor.drain, {"url": url, "queue_type": QUORUM, "jobs": jobs}, 300)()
        _throughput(report, measure, url, jobs)
        _latency(report, measure, url)
    return report


def _throughput(report: Report, measure: Measure, url: str, jobs: int) -> None:
    size = {"url": url, "jobs": jobs}
    one, tasks = {**size, "tasks": 1}, {**size, "tasks": 100}
    measure(
        {
            FLOOR: Run(amqp_floor.enqueue, one),
            OURS: Run(amqp_ours.enqueue, one),
            TASKIQ: Run(peer_taskiq_amqp.enqueue, one),
            CELERY: Run(peer_celery.enqueue, size),
        }
    )
    measure(
        {
            FLOOR: Run(amqp_floor.enqueue, tasks),
            OURS: Run(amqp_ours.enqueue, tasks),
            TASKIQ: Run(peer_taskiq_amqp.enqueue, tasks),
        }
    )
    measure({OURS: Run(amqp_ours.enqueue_many, size)})
    for queue_type in (QUORUM, CLASSIC):
        given = {**size, "queue_type": queue_type}
        celery = {**given, "prefetch": 100}
        runs = {
            FLOOR: Run(amqp_floor.drain, given),
            OURS: Run(amqp_ours.drain, given),
            TASKIQ: Run(peer_taskiq_amqp.drain, {**given, "qos": 10}),
            TASKIQ_100: Run(peer_taskiq_amqp.drain, {**given, "qos": 100}),
            CELERY: Run(peer_celery.drain, {**celery, "pool": "solo"}),
            CELERY_THREADS: Run(peer_celery.drain, {**celery, "pool": "threads"}),
        }
        if queue_type == CLASSIC:
            runs[DRAMATIQ] = Run(peer_dramatiq.drain, size)
        measure(runs)
    report.say(
        f"Jobs a second: {jobs:,} no-op jobs, `async def` but for celery and dramatiq. Enqueued "
        "into a quorum queue, and each call waits for the confirmation; celery has no tasks, and "
        "taskiq no bulk call. Drain: by one worker process, Offload's at concurrency "
        f"{CONCURRENCY}, read in the handler, once a tenth as many more have run."
    )
    contestants = [Contestant(name, [], promise) for name, promise in GUARANTEES.items()]
    report.measures(contestants, [ONE, TASKS, BULK, DRAIN, DRAIN_CLASSIC], whole)
    peers = (TASKIQ, TASKIQ_100, CELERY, CELERY_THREADS)
    report.targets(
        [
            Target(ONE, (OURS, ONE), [(FLOOR, ONE)], at_least=0.9),
            Target(ONE, (OURS, ONE), [(TASKIQ, ONE), (CELERY, ONE)]),
            Target(TASKS, (OURS, TASKS), [(TASKIQ, TASKS)], at_least=1.2),
            Target(TASKS, (OURS, TASKS), [(FLOOR, TASKS)]),
            Target(BULK, (OURS, BULK), [(TASKIQ, TASKS)]),
            Target(DRAIN, (OURS, DRAIN), [(peer, DRAIN) for peer in peers], at_least=2.5),
            Target(DRAIN, (OURS, DRAIN), [(FLOOR, DRAIN)]),
            Target(
                DRAIN_CLASSIC,
                (OURS, DRAIN_CLASSIC),
                [(peer, DRAIN_CLASSIC) for peer in (*peers, DRAMATIQ)],
            ),
        ]
    )


def _latency(report: Report, measure: Measure, url: str) -> None:
    given = {"url": url}
    mixed = {**given, "longer": LONGER_JOBS}
    measure({FLOOR: Run(amqp_floor.pick_up, given), OURS: Run(amqp_ours.pick_up, given)})
    measure(
        {
            OURS: Run(amqp_ours.lateness, mixed),
            TASKIQ: Run(peer_taskiq_amqp.lateness, mixed),
            TASKIQ_SHORT: Run(peer_taskiq_amqp.lateness, {**given, "longer": 0}),
            CELERY_ETA: Run(peer_celery.lateness, mixed),
        }
    )
    report.say(
        f"Milliseconds until a handler starts, on quorum queues. Pick-up: {PICK_UPS} jobs a "
        "round, enqueued by another process one at a time with pauses of 10 to 60 ms, from before "
        f"the call to the first line of the handler. Lateness: {SCHEDULED} jobs a round that are "
        f"due in {SHORT[0]:.1f} to {SHORT[1]:.1f} s, in one order with {LONGER_JOBS} that are due "
        f"in {LONGER[0]:.0f} to {LONGER[1]:.0f} s: the longer delays. taskiq's delays are times "
        "to live in one queue, which a longer one holds up. celery's go down a ladder of queues "
        "by whole seconds, and its worker holds the rest in memory, as Offload's does."
    )
    names = (FLOOR, OURS, TASKIQ, TASKIQ_SHORT, CELERY_ETA)
    contestants = [Contestant(name, []) for name in names]
    report.measures(contestants, [*PICK_UP, *LATENESS, *LATENESS_LONGER], decimals)
    p50, p99 = PICK_UP
    late_p50, late_p99 = LATENESS[1:]
    report.targets(
        [
            Target(p50, (OURS, p50), [(FLOOR, p50)]),
            Target(p99, (OURS, p99), [(FLOOR, p99)]),
            Target(late_p50, (OURS, late_p50), [(TASKIQ, late_p50)]),
            Target(late_p99, (OURS, late_p99), [(TASKIQ, late_p99)]),
        ]
    )
    both = (LATENESS, LATENESS_LONGER)
    bounds = {measure: bound for _, p50, p99 in both for measure, bound in ((p50, 3), (p99, 10))}
    report.bounds(OURS, [earliest for earliest, _, _ in both], bounds)
