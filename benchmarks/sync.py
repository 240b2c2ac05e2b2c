"""`worker.sync`: performing from threads, as Flask, Django and scripts do, beside its peers."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace

import redis

import offload
from benchmarks import peer_huey
from benchmarks.harness import Contestant, Run, Values, take_turns
from benchmarks.redis_server import flush, private_server
from benchmarks.report import Report, Target, whole
from benchmarks.workload import in_threads, some_jobs, threads_measure
from offload import Worker
from offload.adapters import find_adapter, make_worker
from offload.config import parse_address, read_config
from offload_redis.driver import RedisDriver

MANY = 8
"""As many threads as a web server that was told nothing else has of them, about."""
ONE_THREAD, MANY_THREADS = threads_measure(1), threads_measure(MANY)
MEASURES = [ONE_THREAD, MANY_THREADS]
OURS, BY_LOOP = "Offload redis://", "Offload redis://, by the loop"
PUSH, HUEY = "redis-py, an RPUSH each", "huey, RedisHuey"
FULL, NORMAL = "Offload sqlite://?synchronous=full", "Offload sqlite://"
HUEY_FULL, HUEY_OFF = "huey, SqliteHuey", "huey, SqliteHuey fsync=False"
ENTRY = b"x" * 150
"""About as many bytes as one of our entries has for these jobs."""


def _perform(worker: Worker, threads: int, jobs: int) -> Values:
    def call(number: int) -> None:
        for job in some_jobs(number):
            worker.sync.perform(job)

    try:
        return {threads_measure(threads): in_threads(threads, call, jobs)}
    finally:
        worker.sync.stop()


def perform_redis(url: str, threads: int, jobs: int) -> Values:
    """`worker.sync.perform`, as it is."""
    return _perform(offload.connect(url), threads, jobs)


def perform_by_loop(url: str, threads: int, jobs: int) -> Values:
    """The same by a driver that can't store from threads."""
    address = parse_address(url)
    adapter = replace(find_adapter(address.scheme), make=RedisDriver)
    worker = make_worker(adapter, read_config(address, adapter.options))
    return _perform(worker, threads, jobs)


def push(url: str, threads: int, jobs: int) -> Values:
    """The least that a queue in Redis can cost: bytes to the end of a list."""
    with redis.Redis.from_url(url) as client:

        def call(number: int) -> None:
            for _ in range(number):
                client.rpush("benchmark", ENTRY)

        return {threads_measure(threads): in_threads(threads, call, jobs)}


def perform_sqlite(options: str, threads: int, jobs: int) -> Values:
    """`worker.sync.perform` into a new file."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        worker = offload.connect(f"sqlite:///{folder}/jobs.db{options}")
        return _perform(worker, threads, jobs)


def huey_sqlite(fsync: bool | None, threads: int, jobs: int) -> Values:
    """SqliteHuey, likewise."""
    (found,) = peer_huey.enqueue(jobs, threads, fsync).values()
    return {threads_measure(threads): found}


def _redis(report: Report, rounds: int, jobs: int) -> None:
    once = "and a call whose answer is lost stores once"
    with private_server() as url:

        def contestant(name: str, function: object, guarantee: str) -> Contestant:
            runs = [Run(function, {"url": url, "threads": n, "jobs": jobs}) for n in (1, MANY)]  # type: ignore[arg-type]
            return Contestant(name, runs, guarantee)

        contestants = [
            contestant(PUSH, push, "bytes in a list: no id, no script, nobody runs them"),
            contestant(
                HUEY,
                peer_huey.enqueue_redis,
                "an LPUSH; a lost answer raises, and may hide a stored task",
            ),
            contestant(
                OURS, perform_redis, f"one script: by the server's clock, wakes a worker, {once}"
            ),
            contestant(BY_LOOP, perform_by_loop, "the same"),
        ]
        report.samples.update(take_turns(contestants, rounds, lambda: flush(url)))
    report.measures(contestants, MEASURES, whole)


def _sqlite(report: Report, rounds: int, jobs: int) -> None:
    def ours(name: str, options: str, guarantee: str) -> Contestant:
        runs = [
            Run(perform_sqlite, {"options": options, "threads": n, "jobs": jobs}) for n in (1, MANY)
        ]
        return Contestant(name, runs, guarantee)

    def theirs(name: str, fsync: bool | None, guarantee: str) -> Contestant:
        runs = [Run(huey_sqlite, {"fsync": fsync, "threads": n, "jobs": jobs}) for n in (1, MANY)]
        return Contestant(name, runs, guarantee)

    contestants = [
        ours(FULL, "?synchronous=full", "accepted survives kill -9, power loss"),
        theirs(HUEY_FULL, None, "accepted survives kill -9, power loss"),
        ours(NORMAL, "", "accepted survives kill -9, not power loss"),
        theirs(HUEY_OFF, False, "accepted survives kill -9; power loss may damage the file"),
    ]
    report.samples.update(take_turns(contestants, rounds))
    report.measures(contestants, MEASURES, whole)


def suite(rounds: int, jobs: int) -> Report:
    """Measure, and compare."""
    report = Report("sync: performing from threads")
    report.say(
        f"Jobs a second: {jobs:,} jobs, accepted one by one in each thread; median (min-max) of "
        f"{rounds} interleaved rounds, each in a fresh process. One Redis server for everybody, "
        "`appendonly yes`, `appendfsync everysec`, flushed between them; SQLite's files in "
        f"`{tempfile.gettempdir()}`. Load before: {os.getloadavg()[0]:.1f}."
    )
    _redis(report, rounds, jobs)
    _sqlite(report, rounds, max(jobs // 4, 500))
    report.say(f"SQLite: a quarter of the jobs. Load behind: {os.getloadavg()[0]:.1f}.")
    report.targets(
        [
            Target("redis, 1 thread", (OURS, ONE_THREAD), [(PUSH, ONE_THREAD)], 0.8),
            Target("redis, 1 thread", (OURS, ONE_THREAD), [(HUEY, ONE_THREAD)], 1),
            Target("redis, 8 threads", (OURS, MANY_THREADS), [(HUEY, ONE_THREAD)], 2),
            Target("redis, 8 threads", (OURS, MANY_THREADS), [(HUEY, MANY_THREADS)]),
            Target("redis, 8 threads", (OURS, MANY_THREADS), [(PUSH, MANY_THREADS)]),
            Target("redis, 1 thread", (OURS, ONE_THREAD), [(BY_LOOP, ONE_THREAD)]),
            Target("redis, 8 threads", (OURS, MANY_THREADS), [(BY_LOOP, MANY_THREADS)]),
            *(
                Target(
                    f"sqlite, {each}, both safe from power loss",
                    (FULL, each),
                    [(HUEY_FULL, each)],
                    1,
                )
                for each in MEASURES
            ),
            *(
                Target(f"sqlite, {each}, neither is", (NORMAL, each), [(HUEY_OFF, each)])
                for each in MEASURES
            ),
        ]
    )
    return report
