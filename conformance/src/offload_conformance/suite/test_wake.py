"""An idle worker is woken: by itself (PERF-9), by others (DIST-6), and after a cut (DUR-9).

A worker that only looks now and then starts a job as soon as that by luck at best. So every job
finds the worker idle, and at another moment after the last one: also between its last look and
the beginning of its wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

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
LONG_REST = 6.35
"""Seconds after which one looks seldom who does so after a few seconds without a job.

No whole number of them, since that may be when it looks.
"""
OUTAGE = 1.0
"""Seconds in which it tries to reconnect in vain."""
RECONNECTING = 5
"""Jobs after a cut that may still find a part of the way closed."""
BETWEEN = 10
"""Jobs that come between a look and the wait after it."""
BUSY_HOST_MS = 150.0
"""What one job in ten may take longer: the host has other work now and then."""


async def perform_when_idle(
    lab: Lab,
    performer: Worker,
    tag: str,
    count: int = JOBS,
    queues: Sequence[str] = ("default",),
) -> None:
    """Perform jobs, each when the last has ended; state how soon they must begin.

    They go to the queues in turn, and every third time there are two of them in one call.
    """
    performed = 0
    for number in range(count):
        queue = queues[number // 3 % len(queues)]
        if number % 3 == 2:
            await lab.perform_many(performer, tag, 2, queue=queue)
        else:
            await lab.perform(performer, tag, queue=queue)
        performed += 1 + (number % 3 == 2)
        await lab.until_ended(performed, tag)
        await asyncio.sleep(number % 10 * PHASE)
    limit_ms = lab.limits.lateness / timedelta(milliseconds=1)
    lab.check("began_within", tag=tag, limit_ms=limit_ms)
    lab.check("began_within", tag=tag, limit_ms=limit_ms, share=0.9, slack_ms=BUSY_HOST_MS)
    rested = f"{tag}, after a rest"
    for number in range(1, RESTS + 1):
        await asyncio.sleep(REST + number * REST_MORE)
        await lab.perform(performer, rested)
        await lab.until_ended(number, rested)
    lab.check("began_within", tag=rested, limit_ms=limit_ms)


async def perform_after_a_long_rest(lab: Lab, *, by_others: bool) -> None:
    """Several workers rest at the same time, so that no moment in which the host is busy counts."""
    workers = {f"queue-{number}": lab.worker(queues=f"queue-{number}") for number in range(RESTS)}
    for queue, worker in workers.items():
        await worker.start()
        await lab.fence(worker, queue)
    performer = lab.worker(puppets=False) if by_others else None
    await asyncio.sleep(LONG_REST)
    for number, (queue, worker) in enumerate(workers.items(), 1):
        await lab.perform(performer or worker, "rested", queue=queue)
        await lab.until_ended(number, "rested")
        await asyncio.sleep(REST_MORE)
    limit_ms = lab.limits.lateness / timedelta(milliseconds=1)
    lab.check("began_within", tag="rested", limit_ms=limit_ms)
    lab.check("each_once")


async def perform_before_it_waits(lab: Lab, performer: Worker | None = None) -> None:
    """Perform jobs when a driver has looked and found none, each just before the wait after that.

    Whole workers show no such moment: their jobs come as their handlers have ended.
    """
    performed, is_driven = 0, False

    async def perform() -> None:
        nonlocal performed
        if performed < BETWEEN:
            performed += 1
            await lab.perform(performer or worker, "between")

    def before_waiting(method: Any, call: str, _: str) -> Any:
        nonlocal is_driven

        async def wait(timeout: float) -> None:
            await perform()
            await method(timeout)

        if call != "wait":
            return method
        is_driven = True
        return wait

    worker = lab.worker(before_waiting)
    await worker.start()
    await lab.fence(worker)
    for number in range(BETWEEN):
        if not is_driven:
            await perform()
        await lab.until_ended(number + 1, "between")
    limit_ms = lab.limits.lateness / timedelta(milliseconds=1)
    lab.check("began_within", tag="between", limit_ms=limit_ms)
    lab.check("each_once")


async def test_PERF_9_woken_between_its_look_and_its_wait(lab: Lab) -> None:
    await perform_before_it_waits(lab)


async def test_DIST_6_woken_between_its_look_and_its_wait(lab: Lab) -> None:
    lab.need("distributed")
    await perform_before_it_waits(lab, lab.worker(puppets=False))


@pytest.mark.slow
async def test_PERF_9_woken_after_a_long_rest(lab: Lab) -> None:
    await perform_after_a_long_rest(lab, by_others=False)


@pytest.mark.slow
async def test_DIST_6_woken_by_another_worker_after_a_long_rest(lab: Lab) -> None:
    lab.need("distributed")
    await perform_after_a_long_rest(lab, by_others=True)


async def test_PERF_9_woken_by_its_own_process(lab: Lab) -> None:
    worker = lab.worker(queues="default,other")
    await worker.start()
    await lab.fence(worker)
    await perform_when_idle(lab, worker, "own", queues=("default", "other"))
    lab.check("each_once")


async def test_DIST_6_woken_by_another_worker(lab: Lab) -> None:
    worker, performer = lab.worker(queues="default,other"), lab.worker(puppets=False)
    await worker.start()
    await lab.fence(worker)
    await perform_when_idle(lab, performer, "other", queues=("default", "other"))
    lab.check("each_once")


async def test_DIST_6_nor_is_it_late_when_it_is_due_later(lab: Lab) -> None:
    worker, performer = lab.worker(), lab.worker(puppets=False)
    await worker.start()
    await lab.fence(worker)
    for number in range(1, 13):
        await lab.perform(performer, "later", delay=0.15)
        await lab.until_started(number, "later")
    limit_ms = 4 * (lab.limits.lateness / timedelta(milliseconds=1))
    lab.check("late_at_most", limit_ms=limit_ms, share=0.8)


async def test_DIST_6_woken_beside_busy_ones(lab: Lab) -> None:
    """The other workers that wait on this queue have no free slot."""
    performer = lab.worker(puppets=False)
    workers = [lab.worker(concurrency=1) for _ in range(3)]
    for number, worker in enumerate(workers, 1):
        await worker.start()
        await lab.perform(performer, "held", do={"*": [["gate", "busy"]]})
        await lab.until_started(number, "held")
    idle = lab.worker()
    await idle.start()
    await lab.fence(idle)
    await perform_when_idle(lab, performer, "other")
    lab.check("ran_on", tag="other", worker=lab.troupe(idle).name, least=JOBS)
    lab.stage.open("busy")
    await lab.until_ended(3, "held")
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
    async with FaultProxy(lab.history, *server.address) as proxy:
        worker, performer = lab.worker(through=proxy), lab.worker(puppets=False)
        await worker.start()
        await lab.fence(worker)
        for cut in ("cut", "cut for a while", "cut once more"):
            if cut == "cut for a while":
                proxy.refuse()
                await asyncio.sleep(OUTAGE)
                await proxy.heal()
            else:
                proxy.reset()
            # The first ones wait for whichever of its connections comes back last.
            for number in range(1, RECONNECTING + 1):
                await lab.perform(performer, f"first after {cut}")
                ended = lab.reconnect + DEADLINE
                await lab.until_ended(number, f"first after {cut}", ended)
            await perform_when_idle(lab, performer, f"woken after {cut}", JOBS // 2)
            lab.check("each_ran", tag=f"woken after {cut}")
        await worker.stop()  # while there is a way to its backend


async def test_TIME_7_a_retry_that_is_sooner_than_the_one_waited_for(lab: Lab) -> None:
    worker = lab.worker()
    await worker.start()
    await lab.perform(worker, "an hour", delay=3600)
    await lab.fence(worker)
    do: dict[str, list[list[Any]]] = {"1": [["raise", "boom"]], "2": [["retry", 0.02]]}
    await lab.perform(worker, "fails", do=do)
    await lab.until_ended(3, "fails")
    lab.check("attempts", tag="fails", expected=[1, 2, 3])
    lab.check("never_ran", tag="an hour")
