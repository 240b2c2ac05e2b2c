"""What a worker gives back is as it was, and in front of what waited behind it (FIFO-3)."""

from __future__ import annotations

import asyncio

import pytest
from watched import watched_worker

from offload import Job, current_job
from offload.engine.dispatcher import IDLE_SECONDS, STALE_SECONDS


class PrefetchesTen:
    def update(self, ended_jobs):
        return 10


@pytest.fixture
async def busy(monkeypatch):
    """A worker whose only slot is taken, with two jobs ahead, and a fetch that has leased two more.

    Also what it has begun, what it was given, and the events that let its handler and the fetch go.
    """
    monkeypatch.setattr("offload.engine.dispatcher.Prefetch", PrefetchesTen)
    worker, watch = watched_worker("concurrency=1&grace=0s")
    begun, performed, free = [], [], asyncio.Event()

    @worker.handler("job")
    async def job(args):
        begun.append(current_job().id)
        await free.wait()

    performed += await worker.perform_many([Job("job")] * 3)
    await worker.start()
    await watch.until(lambda: watch.under_way["wait"])
    watch.gates["answer of fetch"] = answer = asyncio.Event()
    performed += await worker.perform_many([Job("job")] * 2)
    await watch.until(lambda: watch.under_way["fetch"])
    yield worker, watch, begun, performed, free, answer
    free.set()
    answer.set()
    await worker.stop()


async def test_a_stop_amid_a_fetch_keeps_the_order(busy):
    worker, watch, begun, performed, free, answer = busy
    stopping = asyncio.create_task(worker.stop())
    for _ in range(5):
        await asyncio.sleep(0)
    answer.set()
    await stopping
    free.set()
    await worker.start()
    await watch.until(lambda: watch.under_way["wait"] and len(begun) == 6)
    assert begun == [performed[0], *performed]


async def test_a_busy_worker_keeps_the_order_amid_a_fetch(busy):
    _, watch, begun, performed, free, answer = busy
    given_back = len(watch.of("settle"))
    await asyncio.sleep(STALE_SECONDS)  # that of its buffer began before this, and is over first
    answer.set()
    await watch.until(lambda: len(watch.of("settle")) > given_back)
    free.set()
    await watch.until(lambda: watch.under_way["wait"] and len(begun) == 5)
    assert begun == performed


async def test_a_slot_that_comes_free_takes_at_once_what_was_given_back(monkeypatch):
    """No backend rings for what its own worker gives back, and the wait for more lasts seconds."""
    monkeypatch.setattr("offload.engine.dispatcher.Prefetch", PrefetchesTen)
    worker, watch = watched_worker("concurrency=1&grace=0s")
    begun, free = [], asyncio.Event()

    @worker.handler("job")
    async def job(args):
        begun.append(current_job().id)
        await free.wait()

    performed = await worker.perform_many([Job("job")] * 3)
    await worker.start()
    await watch.until(lambda: watch.under_way["wait"])
    monkeypatch.setattr("offload.engine.dispatcher.Prefetch.update", lambda *_: 0)
    await watch.until(lambda: len(watch.of("settle")) == 1)  # it gives back the two
    free.set()
    async with asyncio.timeout(IDLE_SECONDS / 2):
        await watch.until(lambda: len(begun) == 3)
    assert begun == performed
    await worker.stop()
