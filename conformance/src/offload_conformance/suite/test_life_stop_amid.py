"""LIFE-7: what a worker that stops had taken, but not begun, goes back at once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from offload_conformance.lab import Lab
from offload_conformance.proxy import FaultProxy

pytestmark = pytest.mark.asyncio

STOPS = 40
"""How often a worker stops amid its fetches."""
PHASE = 0.00025
"""Seconds by which each stop comes later after a start, or after a perform, than that before it."""
BACKLOG = 300
SOME = 10
SLOW_SECONDS = 0.03
"""How long a slow wire takes, each way."""
SLOW_STOPS = 8
SLOW_PHASE = 0.02
SHORT: dict[str, list[list[Any]]] = {"*": [["work", 0.002]]}


async def test_LIFE_7_nothing_stays_with_a_worker_that_stops_amid_its_fetches(lab: Lab) -> None:
    """What it has taken goes back, wherever it was on its way, and as if it had not been taken."""
    worker = lab.worker(concurrency=2)
    other = lab.worker(concurrency=2) if lab.claims.distributed else worker
    await lab.perform_many(other, "job", BACKLOG, do=SHORT)
    for number in range(STOPS):
        await worker.start()
        await asyncio.sleep(number * PHASE)
        await worker.stop()
    await other.start()
    await all_run_at_once(lab, BACKLOG)
    if other is not worker:
        await other.stop()
        other = lab.worker(concurrency=2)
        for number in range(STOPS):  # and when it waits, and some come
            await worker.start()
            coming = lab.perform_many(other, "job", SOME, do=SHORT)
            performing = asyncio.create_task(coming)
            if number % 2:  # else it may stop before they are there
                await performing
            await asyncio.sleep(number * PHASE)
            await worker.stop()
            await performing
        await other.start()
        await all_run_at_once(lab, BACKLOG + STOPS * SOME)
    lab.check("each_once")


async def test_LIFE_7_nor_with_one_that_stops_while_a_job_is_on_its_way(lab: Lab) -> None:
    """Over a slow wire, so that a stop comes amid each step by which a waiting worker takes it."""
    lab.need("distributed")
    async with FaultProxy(lab.history, *lab.need_server().address) as proxy:
        worker, other = lab.worker(through=proxy), lab.worker()
        for number in range(SLOW_STOPS):
            await worker.start()
            await lab.fence(worker)
            proxy.latency = SLOW_SECONDS
            await lab.perform(other, "job")
            await asyncio.sleep(number * SLOW_PHASE)
            await worker.stop()
            proxy.latency = 0.0
        await other.start()
        await all_run_at_once(lab, SLOW_STOPS)
    lab.check("each_once")


async def all_run_at_once(lab: Lab, count: int) -> None:
    """Wait until `count` jobs have ended, in attempt 1: an expired lease counts as one, too."""
    await lab.until_ended(count, "job")
    lab.check("attempts", tag="job", expected=[1] * count)
