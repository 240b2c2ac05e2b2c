"""CONC: how many run together, and that none holds more than it runs."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import offload
from offload import Worker
from offload_conformance.lab import Lab
from offload_conformance.rules import PREFETCH

pytestmark = pytest.mark.asyncio

SLOTS = 3
WAITING = 400
"""Jobs, of which a worker with two slots may keep a part."""

FAIL: dict[str, list[list[Any]]] = {"*": [["raise", "as it should"]]}
HOLD: dict[str, list[list[Any]]] = {"*": [["gate", "hold"]]}

KINDS = pytest.mark.parametrize("handler", ["act", "act-plain"])


def small_worker(lab: Lab) -> Worker:
    """A worker with few slots, and handlers that are dead after one failure."""
    return lab.worker(concurrency=SLOTS, max_attempts=1)


async def crowd(lab: Lab, worker: Worker, handler: str) -> None:
    """As many run as can, while more wait; then all end."""
    await lab.perform_many(worker, "crowd", SLOTS + 1, do=HOLD, handler=handler)
    await lab.until_started(1, "crowd")
    for _ in range(5):
        await lab.perform(worker, "crowd", do=HOLD, handler=handler)
    await asyncio.sleep(0.01)  # whoever has a slot too many gets the time to use it
    lab.stage.open("hold")
    await lab.until_ended(SLOTS + 6, "crowd")


async def fail_often(lab: Lab, worker: Worker, handler: str) -> None:
    """Jobs fail, a few at a time and one by one, and are over."""
    await lab.perform_many(worker, "failing", 10, do=FAIL, handler=handler)
    await lab.until_ended(10, "failing")
    await lab.perform(worker, "failing", do=FAIL, handler=handler)
    await lab.until_ended(11, "failing")


@KINDS
async def test_CONC_1_never_more(lab: Lab, handler: str) -> None:
    worker = small_worker(lab)
    await worker.start()
    await crowd(lab, worker, handler)
    lab.check("most_at_once", limit=SLOTS)
    lab.check("each_once")


@KINDS
async def test_CONC_1_never_more_after_failures(lab: Lab, handler: str) -> None:
    worker = small_worker(lab)
    await worker.start()
    await fail_often(lab, worker, handler)
    await crowd(lab, worker, handler)
    lab.check("most_at_once", limit=SLOTS)
    lab.check("each_once")


async def test_CONC_1_never_more_of_what_waited_before_the_start(lab: Lab) -> None:
    worker = lab.worker(concurrency=1, queues="default,other")
    for queue in ("default", "other"):
        await lab.perform_many(worker, "waiting", 10, queue=queue, do=HOLD)
        await lab.perform(worker, "waiting", queue=queue, delay=0.001, do=HOLD, handler="act-plain")
    lab.stage.open("hold")  # then each takes but the time that it takes to ask
    await worker.start()
    await lab.until_ended(22, "waiting")
    lab.check("most_at_once", limit=1)
    lab.check("each_once")


async def test_CONC_1_nor_beside_one_that_ran_past_its_timeout(lab: Lab) -> None:
    """A `def` handler can't be stopped, and keeps its slot until it ends."""
    worker = lab.worker(concurrency=SLOTS, max_attempts=2)
    plain = lab.troupe(worker).act_plain
    worker.register("short", plain, timeout=0.03, backoff=offload.constant(0))
    await worker.start()
    await lab.perform(worker, "left", do={"1": [["gate", "left"]]}, handler="short")
    await lab.until_ended(1, "left")  # its second attempt
    await lab.perform_all(worker, "crowd", SLOTS + 2, do={"*": [["work", 0.05]]})
    await lab.until_ended(SLOTS + 2, "crowd")
    lab.check("most_at_once", limit=SLOTS)
    lab.stage.open("left")
    await lab.until_ended(2, "left")
    # Its slot is free again, and only one.
    await lab.perform_all(worker, "more", SLOTS + 2, do=HOLD, handler="act-plain")
    await lab.until_started(SLOTS, "more")
    lab.stage.open("hold")
    await lab.until_ended(SLOTS + 2, "more")
    lab.check("most_at_once", limit=SLOTS)


async def test_CONC_2_that_many_do(lab: Lab) -> None:
    worker = small_worker(lab)
    await worker.start()
    for handler in ("act", "act-plain", "act"):
        await lab.perform(worker, "crowd", do=HOLD, handler=handler)
    await lab.until_started(SLOTS, "crowd")
    lab.check("ran_at_once", count=SLOTS)


@KINDS
async def test_CONC_2_that_many_do_after_failures(lab: Lab, handler: str) -> None:
    worker = small_worker(lab)
    await worker.start()
    await fail_often(lab, worker, handler)
    await lab.perform_many(worker, "crowd", SLOTS, do=HOLD, handler=handler)
    await lab.until_started(SLOTS, "crowd")
    lab.check("ran_at_once", count=SLOTS)


async def test_CONC_2_that_many_do_after_timeouts(lab: Lab) -> None:
    """Whatever the handlers did when their time was over."""
    worker = small_worker(lab)
    troupe = lab.troupe(worker)

    async def cleans_up(args: offload.Args) -> None:
        try:
            await troupe.act(args)
        finally:
            raise ValueError("while it cleaned up")

    worker.register("async", troupe.act, timeout=0.02)
    worker.register("cleans-up", cleans_up, timeout=0.02)
    worker.register("def", troupe.act_plain, timeout=0.02)
    await worker.start()
    for _ in range(SLOTS):
        await lab.perform(worker, "slow", do=HOLD, handler="async")
        await lab.perform(worker, "slow", do=HOLD, handler="cleans-up")
    await lab.until_ended(2 * SLOTS, "slow")
    await lab.perform(worker, "late", do={"*": [["gate", "late"]]}, handler="def")
    late: dict[str, list[list[Any]]] = {"*": [["gate", "late"], ["raise", "too late"]]}
    await lab.perform(worker, "late", do=late, handler="def")
    await lab.perform(worker, "late", do={"*": [["endure", "late"]]}, handler="async")
    await lab.until_dead(worker, 2 * SLOTS + 3)
    lab.stage.open("late")
    await lab.until_ended(3, "late")
    await lab.perform_many(worker, "crowd", SLOTS, do={"*": [["gate", "crowd"]]})
    await lab.until_started(SLOTS, "crowd")
    lab.check("ran_at_once", count=SLOTS)


async def test_CONC_2_as_many_as_are_asked_for(lab: Lab) -> None:
    worker = lab.worker(concurrency=60)
    await worker.start()
    await lab.perform_many(worker, "crowd", 60, do=HOLD)
    await lab.until_started(60, "crowd")
    lab.check("ran_at_once", count=60)


@KINDS
async def test_CONC_3_a_stuck_handler_costs_one_slot(lab: Lab, handler: str) -> None:
    worker = lab.worker(concurrency=2)
    await worker.start()
    await lab.perform(worker, "stuck", do=HOLD, handler=handler)
    await lab.until_started(1, "stuck")
    await lab.perform_many(worker, "others", 200)
    # One by one too, and for as long as it might take to notice that a handler is stuck.
    await lab.perform(worker, "others", delay=0.3)
    await lab.until_ended(201, "others")
    for number in range(202, 222):
        await lab.perform(worker, "others")
        await lab.until_ended(number, "others")
    lab.check("each_once")
    lab.equal("runs of the stuck one that ended", 0, lab.ends("stuck"))


async def test_CONC_3_whatever_it_was_taken_with(lab: Lab) -> None:
    worker = lab.worker(concurrency=4)
    await lab.perform_many(worker, "others", 10)
    await lab.perform_many(worker, "stuck", 2, do=HOLD)
    await lab.perform_many(worker, "others", 10)
    await worker.start()
    await lab.until_ended(20, "others")
    lab.equal("runs of the stuck ones that ended", 0, lab.ends("stuck"))
    await lab.until_started(2, "stuck")
    lab.check("each_once")


@pytest.mark.parametrize("fast", [0, 100])
async def test_CONC_4_a_busy_worker_hoards_nothing(lab: Lab, fast: int) -> None:
    """Its fast jobs let it prefetch; then it is stuck, and another gets what it doesn't keep."""
    lab.need("distributed")
    busy = lab.worker(concurrency=2)
    for tag, count, do in (("fast", fast, None), ("stuck", 2, HOLD), ("waiting", WAITING, None)):
        await lab.perform_many(busy, tag, count, do=do)
    await busy.start()
    await lab.until_started(2, "stuck")
    idle = lab.worker(concurrency=2)
    await idle.start()
    await lab.until_ended(WAITING - 2 * PREFETCH, "waiting")
    lab.equal("runs of the stuck ones that ended", 0, lab.ends("stuck"))
    lab.stage.open("hold")
    await lab.until_ended(fast + 2 + WAITING)
    lab.check("each_once")


async def test_CONC_4_in_all_its_queues_together(lab: Lab) -> None:
    lab.need("distributed")
    names = ("a", "b", "c", "d", "e")
    busy = lab.worker(concurrency=1, queues=",".join(names))
    await lab.perform(busy, "stuck", queue="a", do=HOLD)
    for name in names:
        await lab.perform_many(busy, "waiting", 60, queue=name)
    await busy.start()
    await lab.until_started(1, "stuck")
    idle = lab.worker(concurrency=1, queues=",".join(names))
    await idle.start()
    await lab.until_ended(300 - PREFETCH, "waiting")
    lab.equal("runs of the stuck one that ended", 0, lab.ends("stuck"))
    lab.stage.open("hold")
    await lab.until_ended(301)
    lab.check("each_once")


async def test_CONC_4_nor_what_it_performs_itself(lab: Lab) -> None:
    lab.need("distributed")
    busy, idle = lab.worker(concurrency=2), lab.worker(concurrency=2)
    await busy.start()
    await lab.perform_many(busy, "stuck", 2, do=HOLD)
    await lab.until_started(2, "stuck")
    await idle.start()
    await lab.perform_many(busy, "waiting", WAITING - 20)
    await lab.perform_all(busy, "waiting", 20)
    await lab.until_ended(WAITING - 2 * PREFETCH, "waiting")
    lab.equal("runs of the stuck ones that ended", 0, lab.ends("stuck"))
    lab.stage.open("hold")
    await lab.until_ended(2 + WAITING)
    lab.check("each_once")
