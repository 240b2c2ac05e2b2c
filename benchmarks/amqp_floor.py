"""The floors: the least that storing, running and waking can cost with aiormq, and no more.

A persistent, mandatory publish into a quorum queue, with its confirmation awaited; and a consumer
that decodes each delivery, awaits the handler and acknowledges it, one by one. Nobody declares
anew, retries, delays, drains or reconnects. It is the client on which taskiq stands, at
its defaults, and no bound: what acknowledges by the batch, or speaks AMQP itself, is faster.
"""

from __future__ import annotations

import asyncio
import gc
import random
import secrets
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiormq
import msgspec
from aiormq.abc import AbstractChannel, DeliveredMessage
from pamqp.commands import Basic

from benchmarks.harness import Values
from benchmarks.latency import PICK_UPS, answers, as_pick_up
from benchmarks.workload import (
    HANDLER,
    DrainClock,
    enqueue_measure,
    in_tasks,
    jobs_per_second,
)

QUEUE = "floor"
PREFETCH = 100

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode
_PERSISTENT = Basic.Properties(delivery_mode=2)


@asynccontextmanager
async def _channel(url: str, queue_type: str = "quorum") -> AsyncIterator[AbstractChannel]:
    connection = await aiormq.connect(url)
    channel = await connection.channel(publisher_confirms=True)
    await channel.queue_declare(QUEUE, durable=True, arguments={"x-queue-type": queue_type})
    yield channel
    await connection.close()


async def _publish(channel: AbstractChannel, args: dict[str, Any]) -> None:
    job_id = secrets.token_hex(8)
    job = {"v": 1, "id": job_id, "handler": HANDLER, "enqueued_ms": time.time_ns(), "args": args}
    await channel.basic_publish(
        _encode(job), routing_key=QUEUE, properties=_PERSISTENT, mandatory=True
    )


async def _publish_so_many(channel: AbstractChannel, jobs: int) -> None:
    for _ in range(jobs):
        await _publish(channel, {"x": 1.0})


async def _consume(channel: AbstractChannel, handle: Callable[[dict[str, Any]], None]) -> None:
    async def run(message: DeliveredMessage) -> None:
        handle(_decode(message.body)["args"])
        assert message.delivery_tag is not None
        await channel.basic_ack(message.delivery_tag)

    await channel.basic_qos(prefetch_count=PREFETCH)
    await channel.basic_consume(QUEUE, run)


def enqueue(url: str, tasks: int, jobs: int) -> Values:
    """From so many tasks, each one job at a time."""

    async def run(number: int) -> float:
        async with _channel(url) as channel:
            await _publish_so_many(channel, 1)
            began = time.perf_counter()
            await in_tasks(tasks, lambda share: _publish_so_many(channel, share), number)
            return time.perf_counter() - began

    return {enqueue_measure(tasks): jobs_per_second(run, jobs)}


def drain(url: str, queue_type: str, jobs: int) -> Values:
    """Run what waits."""

    async def run() -> float:
        clock = DrainClock(jobs)
        async with _channel(url, queue_type) as channel:
            await in_tasks(100, lambda share: _publish_so_many(channel, share), clock.jobs)
            gc.collect()
            await _consume(channel, lambda _: clock.tick())
            await clock.done.wait()
        return clock.jobs_per_second

    return {f"drain, {queue_type}": asyncio.run(run())}


def pick_up(url: str) -> Values:
    """Publish in another process of this host, whose clock is the same."""

    async def run() -> list[float]:
        delays: asyncio.Queue[float] = asyncio.Queue()

        def handle(args: dict[str, Any]) -> None:
            delays.put_nowait((time.time_ns() - args["since"]) / 1e6)

        async with _channel(url) as channel:
            await _consume(channel, handle)
            return await answers(delays, "benchmarks.amqp_floor", url)

    return as_pick_up(asyncio.run(run()))


async def _publish_with_pauses(url: str) -> None:
    async with _channel(url) as channel:
        for _ in range(PICK_UPS):
            await asyncio.sleep(random.uniform(0.01, 0.06))
            await _publish(channel, {"since": time.time_ns()})


if __name__ == "__main__":
    # The publishing process of `pick_up`.
    asyncio.run(asyncio.wait_for(_publish_with_pauses(sys.argv[1]), 120))
