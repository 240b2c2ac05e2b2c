"""An idle worker is woken: by itself (PERF-9), by others (DIST-6), and after a cut (DUR-9).

A worker that only looks now and then starts a job as soon as that by luck at best. So every job
finds the worker idle, and at another moment after the last one: also between its last look and
the beginning of its wait.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from offload import Worker
from offload_conformance.lab import Lab
from offload_conformance.proxy import FaultProxy
from offload_conformance.stage import DEADLINE

pytestmark = pytest.mark.asyncio

JOBS = 40
PHASE = 0.0007
"""Seconds by which each job comes later after the end of the last one than that before it."""
REST = 0.4
"""Seconds after which one who looks less and less often looks seldom."""
REST_MORE = 0.1
"""Seconds by which each rest is longer: another phase of its looks."""
RESTS = 5
RECONNECTING = 5
"""Jobs after a cut that may still find a part of the way closed."""
BUSY_HOST_MS = 150.0
"""What one job in ten may take longer: the host has other work now and then."""


async def perform_when_idle(lab: Lab, performer: Worker, tag: str, count: int = JOBS) -> None:
    """Perform jobs one by one, each when the last has ended; state how soon they must begin."""
    for number in range(1, count + 1):
        await lab.perform(performer, tag)
        await lab.until_ended(number, tag)
        await asyncio.sleep(number % 10 * PHASE)
    limit_ms = lab.limits.lateness / timedelta(milliseconds=1)
    lab.check("began_within", tag=tag, limit_ms=limit_ms)
    lab.check("began_within", tag=tag, limit_ms=limit_ms + BUSY_HOST_MS, share=0.9)
    rested = f"{tag}, after a rest"
    for number in range(1, RESTS + 1):
        await asyncio.sleep(REST + number * REST_MORE)
        await lab.perform(performer, rested)
        await lab.until_ended(number, rested)
    lab.check("began_within", tag=rested, limit_ms=limit_ms)


async def test_PERF_9_woken_by_its_own_process(lab: Lab) -> None:
    worker = lab.worker()
    await worker.start()
    await lab.fence(worker)
    await perform_when_idle(lab, worker, "own")
    lab.check("each_once")


async def test_DIST_6_woken_by_another_worker(lab: Lab) -> None:
    worker, performer = lab.worker(), lab.worker(puppets=False)
    await worker.start()
    await lab.fence(worker)
    await perform_when_idle(lab, performer, "other")
    lab.check("each_once")


@pytest.mark.slow
async def test_DIST_6_woken_by_another_process(lab: Lab) -> None:
    performer = lab.worker(puppets=False)
    async with lab.process():
        await lab.perform(performer, "first")
        await lab.until_ended(1, "first")
        await perform_when_idle(lab, performer, "other")
        lab.check("each_once")


@pytest.mark.slow
async def test_DUR_9_woken_again_after_a_cut(lab: Lab) -> None:
    server = lab.need_server()
    reconnect = lab.limits.reconnect
    if reconnect is None:
        raise AssertionError("need_server has let it pass")
    async with FaultProxy(lab.history, *server.address) as proxy:
        worker, performer = lab.worker(through=proxy), lab.worker(puppets=False)
        await worker.start()
        await lab.fence(worker)
        proxy.reset()
        # The first ones wait for whichever of its connections comes back last.
        for number in range(1, RECONNECTING + 1):
            await lab.perform(performer, "after the cut")
            await lab.until_ended(number, "after the cut", reconnect.total_seconds() + DEADLINE)
        await perform_when_idle(lab, performer, "woken", JOBS // 2)
        await worker.stop()  # while there is a way to its backend
        lab.check("each_ran", tag="woken")
