"""Celery with RabbitMQ, with the settings of its documentation for quorum queues.

What its source (5.7.0, kombu 5.7.0, py-amqp 5.4.2) promises:

- A publish isn't confirmed by default; with `confirm_publish` the call waits for it. It isn't
  mandatory: what can't be routed is dropped.
- A job is acknowledged before it runs by default; with `task_acks_late` after it, one by one. One
  whose worker dies is delivered again at once; a handler that raises is logged, and acknowledged.
- With quorum queues the prefetch counts for each consumer and is static.
- No `async def`: the handler is a plain function, run by the main thread (the pool `solo`) or in
  one of 25 threads (the pool `threads`).
- With quorum queues and a topic exchange a delayed job goes down a ladder of queues by whole
  seconds, and the rest of the delay is spent in the worker's memory, unacknowledged.
"""

from __future__ import annotations

import gc
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from celery import Celery  # type: ignore[import-untyped]
from celery.signals import worker_ready  # type: ignore[import-untyped]
from celery.worker import state  # type: ignore[import-untyped]

from benchmarks.harness import Values
from benchmarks.latency import Dues
from benchmarks.workload import CONCURRENCY, HANDLER, DrainClock, enqueue_measure


def _new_app(url: str, queue_type: str = "quorum", **settings: Any) -> Any:
    app = Celery(HANDLER, broker=f"{url}//", set_as_current=False)
    app.conf.update(
        broker_transport_options={"confirm_publish": True},
        task_acks_late=True,
        task_ignore_result=True,
        task_default_queue=f"celery.{queue_type}",  # another type, another name
        task_default_queue_type=queue_type,
        worker_redirect_stdouts=False,  # our answer goes there
        **settings,
    )
    return app


def _work(app: Any, pool: str) -> None:
    """Until somebody ends it. Nobody else is there to be greeted."""
    worker = app.Worker(
        pool=pool,
        concurrency=1 if pool == "solo" else CONCURRENCY,
        loglevel="ERROR",
        without_mingle=True,
        without_gossip=True,
        quiet=True,
    )
    worker.start()


def _end() -> None:
    """As the handler of SIGTERM does it."""
    state.should_stop = 0


def enqueue(url: str, jobs: int) -> Values:
    """One call after the other: there is no other way in one thread."""
    app = _new_app(url)

    @app.task(name=HANDLER)  # type: ignore[untyped-decorator]
    def handle(x: float) -> None:
        pass

    for _ in range(max(jobs // 10, 100)):
        handle.delay(1.0)
    gc.collect()
    began = time.perf_counter()
    for _ in range(jobs):
        handle.delay(1.0)
    return {enqueue_measure(1): jobs / (time.perf_counter() - began)}


def drain(url: str, queue_type: str, pool: str, prefetch: int, jobs: int) -> Values:
    """Run what waits."""
    clock = DrainClock(jobs)
    slots = 1 if pool == "solo" else CONCURRENCY
    app = _new_app(url, queue_type, worker_prefetch_multiplier=prefetch // slots)
    one_by_one = threading.Lock()

    @app.task(name=HANDLER)  # type: ignore[untyped-decorator]
    def handle(x: float) -> None:  # noqa: ARG001
        with one_by_one:
            clock.tick()
        if clock.done.is_set():
            _end()

    for _ in range(clock.jobs):
        handle.delay(1.0)
    gc.collect()
    _work(app, pool)
    return {f"drain, {queue_type}": clock.jobs_per_second}


def lateness(url: str, longer: int) -> Values:
    """Start of the handler after the `eta` of the call."""
    dues = Dues(longer)
    app = _new_app(
        url,
        task_default_exchange="celery.topic",
        task_default_exchange_type="topic",
        worker_prefetch_multiplier=0,  # no limit: or those that it holds are in the others' way
    )

    @app.task(name=HANDLER)  # type: ignore[untyped-decorator]
    def handle(delay: float, due: float) -> None:
        dues.started(delay, due)
        if dues.done.is_set():
            _end()

    def send() -> None:
        for delay in dues.delays:
            when = datetime.now(UTC) + timedelta(seconds=delay)
            handle.apply_async((delay, when.timestamp()), eta=when)

    sender = threading.Thread(target=send, daemon=True)
    worker_ready.connect(lambda **_: sender.start(), weak=False)
    _work(app, "solo")
    return dues.values
