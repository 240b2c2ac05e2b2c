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


async def test_FIFO_3_what_a_stop_gives_back(lab: Lab) -> None:
    """A job that was cut short, and those that were taken ahead: again before those behind."""
    worker = lab.worker(concurrency=1, grace="0s")
    numbers = range(3)
    for number in numbers:
        await lab.perform_many(worker, f"before {number}", 40)  # so fast that more are taken ahead
        await lab.perform(worker, f"cut {number}", do={"*": [["gate", f"held {number}"]]})
        await lab.perform_many(worker, f"behind {number}", 20)
    for number in numbers:
        await worker.start()
        await lab.until_started(1, f"cut {number}")
        await lab.stop(worker)
        lab.stage.open(f"held {number}")  # its attempt didn't count, so it does the same again
    await worker.start()
    await lab.until_ended(3 + 3 * 61)  # the runs that were cut short have ended, too
    for number in numbers:
        lab.check("again_before", tag=f"cut {number}", others=f"behind {number}")
    lab.check("in_order_of_performs")


async def test_FIFO_3_of_several_slots(lab: Lab) -> None:
    several = lab.worker(concurrency=4, grace="0s")
    await lab.perform_many(several, "cut", 4, do={"*": [["gate", "held"]]})
    await several.start()
    await lab.until_started(4, "cut")
    await lab.perform(several, "behind")
    await lab.perform_many(several, "behind", 20)
    await lab.stop(several)
    lab.stage.open("held")
    worker = lab.worker(concurrency=1) if lab.claims.distributed else several
    await worker.start()
    await lab.until_ended(21, "behind")
    lab.check("again_before", tag="cut", others="behind")


async def test_FIFO_3_what_a_busy_worker_gives_back(lab: Lab) -> None:
    """It has taken jobs ahead, and then its slot is taken for longer than it keeps them."""
    worker = lab.worker(concurrency=1)
    for number in range(2):
        await lab.perform_many(worker, f"fast {number}", 40)
        await lab.perform(worker, f"long {number}", do={"*": [["work", 0.6]]})
        await lab.perform_many(worker, f"behind {number}", 20)
    await worker.start()
    await lab.until_ended(2 * 61)
    lab.check("in_order_of_performs")
    lab.check("each_once")
