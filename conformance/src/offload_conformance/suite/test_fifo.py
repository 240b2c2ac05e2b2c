"""FIFO: in order.

One performer, whose calls follow each other, and one slot: so the order is that of all runs.
"""

from __future__ import annotations

import pytest

from offload import Worker
from offload_conformance.lab import Lab

pytestmark = pytest.mark.asyncio

SIZES = (1, 1, 7, 1, 130, 2, 1, 260, 1, 1, 33, 1)
"""Jobs in one call after the other: single ones, and more than a fetch or a batch may hold."""


async def perform_mixed(lab: Lab, worker: Worker, sizes: tuple[int, ...], tag: str = "job") -> None:
    """Perform jobs one after the other, in calls of these sizes."""
    for number, size in enumerate(sizes):
        if size == 1:
            await lab.perform(worker, f"{tag} {number}")
        else:
            await lab.perform_many(worker, f"{tag} {number}", size)


async def test_FIFO_1_in_the_order_of_the_performs(lab: Lab) -> None:
    worker = lab.worker(concurrency=1)
    await worker.start()
    await lab.perform(worker, "first", do={"*": [["gate", "all are there"]]})
    await lab.until_started(1)
    await perform_mixed(lab, worker, SIZES)
    lab.stage.open("all are there")
    await lab.until_ended(1 + sum(SIZES))
    lab.check("in_order_of_performs")
    lab.check("each_once")


async def test_FIFO_1_while_they_are_taken(lab: Lab) -> None:
    worker = lab.worker(concurrency=1)
    await worker.start()
    await perform_mixed(lab, worker, SIZES)
    await lab.until_ended(sum(SIZES))
    lab.check("in_order_of_performs")


async def test_FIFO_2_in_the_order_of_what_was_performed_before_the_start(lab: Lab) -> None:
    worker = lab.worker(concurrency=1)
    await perform_mixed(lab, worker, SIZES)
    await worker.start()
    await perform_mixed(lab, worker, (1, 20, 1), "later")
    await lab.until_ended(sum(SIZES) + 22)
    lab.check("in_order_of_performs")


async def test_FIFO_2_over_a_performer_that_has_stopped(lab: Lab) -> None:
    """Several perform in turn, and they stop in another order than that."""
    worker = lab.worker(concurrency=1)
    # Where it alone could run what it leaves, it stays.
    performers = [lab.worker() for _ in range(3)] if lab.claims.distributed else [worker]
    for number, performer in enumerate(performers * 2):
        await perform_mixed(lab, performer, (1, 20, 1), f"of {number}")
    first, *others = performers
    for performer in reversed(others):
        await performer.stop()
        await lab.perform(first, "since then")
    if first is not worker:
        await first.stop()
    await worker.start()
    await lab.until_ended(len(performers) * 2 * 22 + len(others))
    lab.check("in_order_of_performs")
