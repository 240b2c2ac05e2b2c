"""dramatiq with RabbitMQ, as its documentation shows.

What its source (2.2.1, pika 1.4.4) promises:

- It declares its queues itself, and leaves no say in their type: they are classic queues.
- A publish isn't confirmed by default; with `confirm_delivery` it is, and mandatory.
- Each job is acknowledged by itself, after the run. One whose worker dies is delivered again at
  once; a handler that raises runs again, up to 20 times; what is left goes to a dead letter queue.
- No `async def` without a middleware that costs: a plain function, run in one of 8 threads.
"""

from __future__ import annotations

import gc
import threading

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker

from benchmarks.harness import Values
from benchmarks.workload import HANDLER, DrainClock


def drain(url: str, jobs: int) -> Values:
    """Run what waits, in a classic queue."""
    clock = DrainClock(jobs)
    done = threading.Event()
    one_by_one = threading.Lock()
    broker = RabbitmqBroker(url=url, confirm_delivery=True)

    @dramatiq.actor(actor_name=HANDLER, broker=broker)
    def handle(x: float) -> None:  # noqa: ARG001
        with one_by_one:
            clock.tick()
        if clock.done.is_set():
            done.set()

    for _ in range(clock.jobs):
        handle.send(1.0)
    gc.collect()
    worker = dramatiq.Worker(broker)
    worker.start()
    done.wait()
    worker.stop()
    broker.close()
    return {"drain, classic": clock.jobs_per_second}
