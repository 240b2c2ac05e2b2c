"""QUE: queues, each with the workers that name it."""

from __future__ import annotations

from typing import Any

import pytest

from offload import (
    InvalidJobError,
    Job,
    QueueCounts,
    UnknownQueueError,
    UnsupportedError,
    Worker,
)
from offload_conformance.lab import Lab

pytestmark = pytest.mark.asyncio

A_FEW = 40
"""Runs of others that a job may have to see begin: a bounded prefetch of a worker with 2 slots."""

LONGEST = "aZ09_-" * 20


async def refuse_elsewhere(lab: Lab, worker: Worker) -> None:
    """A worker that isn't distributed refuses what it can't run itself, any way it is asked."""
    job = Job("act", {"tag": "elsewhere"}, "elsewhere")
    await lab.refused(UnknownQueueError, "perform elsewhere", worker.perform(job))
    await lab.refused(UnknownQueueError, "perform_in elsewhere", worker.perform_in(job, 0.001))
    await lab.refused(UnknownQueueError, "perform_many elsewhere", worker.perform_many([job]))


async def test_QUE_1_only_its_own_queues(lab: Lab) -> None:
    worker = lab.worker(queues="first,second")
    if lab.claims.distributed:
        await lab.perform(worker, "elsewhere", queue="elsewhere")
        await lab.perform(worker, "elsewhere", queue="default")
        await lab.perform(worker, "elsewhere", queue="elsewhere", delay=0.001)
    else:
        await refuse_elsewhere(lab, worker)
    await worker.start()
    for queue in ("first", "second"):
        await lab.perform(worker, queue, queue=queue)
        await lab.perform(worker, f"{queue}, later", queue=queue, delay=0.005)
        await lab.until_started(1, f"{queue}, later")
        await lab.until_started(1, queue)
        await lab.fence(worker, queue)
        lab.check("each_once", tag=queue)
    lab.check("never_ran", tag="elsewhere")


async def test_QUE_1_nor_queues_of_nearly_the_same_name(lab: Lab) -> None:
    # Names that a careless pattern, case, prefix or separator would take for the same.
    name = "in_box-a"
    strangers = ("inxbox-a", "IN_BOX-A", "in_box", "box-a", "in_box-a_", "in-box_a")
    worker = lab.worker(queues=f"{name},other")
    for stranger in strangers:
        if lab.claims.distributed:
            await lab.perform(worker, "elsewhere", queue=stranger)
        else:
            refused = worker.perform(Job("act", {"tag": "elsewhere"}, stranger))
            await lab.refused(UnknownQueueError, f"perform in {stranger}", refused)
    await worker.start()
    for queue in (name, "other"):
        await lab.fence(worker, queue)
        await lab.fence(worker, queue)
    lab.check("never_ran", tag="elsewhere")


async def test_QUE_1_the_default_queue_is_called_default(lab: Lab) -> None:
    worker = lab.worker()
    await worker.start()
    await lab.perform(worker, "here")
    await lab.until_ended(1)
    queues = [event.what["queue"] for event in lab.history.named("started")]
    lab.equal("the queue that the handler saw", ["default"], queues)
    lab.check("each_once")


async def test_QUE_2_waits_elsewhere_untouched(lab: Lab) -> None:
    worker = lab.worker(queues="here")
    await worker.start()
    if not lab.claims.distributed:
        await refuse_elsewhere(lab, worker)
        await lab.fence(worker, "here")
        lab.check("each_once")
        return
    await lab.perform(worker, "elsewhere", queue="elsewhere")
    await lab.fence(worker, "here")
    lab.check("never_ran", tag="elsewhere")
    await check_counts(lab, worker, "elsewhere", {"waiting": 1, "running": 0, "dead": 0})
    await worker.stop()
    other = lab.worker(queues="elsewhere,unused")
    await other.start()
    await lab.until_ended(1, "elsewhere")
    await lab.fence(other, "elsewhere")
    lab.check("attempts", tag="elsewhere", expected=[1])
    lab.check("each_once")


OWN = ("delayed", "retried", "dead", "cut")


async def test_QUE_2_a_job_stays_in_its_queue_whatever_becomes_of_it(lab: Lab) -> None:
    """Delayed, retried, given back, or requeued from the dead letters."""
    worker = lab.worker(queues="default,own", max_attempts=2, grace="0s")
    await worker.start()
    await lab.perform(worker, "delayed", queue="own", delay=0.01)
    await lab.perform(worker, "retried", queue="own", do={"1": [["raise", "boom"]]})
    await lab.perform(worker, "dead", queue="own", do={"*": [["reject", "no"]]})
    await lab.perform(worker, "cut", queue="own", do={"*": [["gate", "hold"]]})
    await lab.until_ended(1, "delayed")
    await lab.until_ended(2, "retried")
    await lab.until_started(1, "cut")
    letters = await lab.until_dead(worker, 1)
    lab.equal("the queues of the dead", ["own"] * len(letters), [each.queue for each in letters])
    if letters:
        await worker.dead_letters.requeue([each.id for each in letters])
        await lab.until_ended(2, "dead")
    await worker.stop()
    lab.stage.open("hold")
    if lab.claims.distributed:
        worker = lab.worker(queues="own")
    await worker.start()
    await lab.until_ended(2, "cut")
    queues = {run.what["queue"] for run in lab.history.named("started") if run.what["tag"] in OWN}
    lab.equal("the queues in which they ran", ["own"], sorted(queues))


async def check_counts(lab: Lab, worker: Worker, queue: str, expected: dict[str, int]) -> None:
    """What a queue holds is this, as far as the adapter can count."""
    try:
        counts = await worker.counts()
    except UnsupportedError:
        return
    held = counts.get(queue, QueueCounts())
    actual = {name: getattr(held, name) for name in expected}
    known = {name: number for name, number in expected.items() if actual[name] is not None}
    lab.equal(f"the jobs in {queue!r}", known, {name: actual[name] for name in known})


@pytest.mark.parametrize(
    "queues", ["full,other", "other,full", "full,more,other", "other,more,full"]
)
async def test_QUE_3_no_queue_starves_behind_a_backlog(lab: Lab, queues: str) -> None:
    worker = lab.worker(queues=queues, concurrency=2)
    await lab.perform_many(worker, "full", 1000, queue="full")
    if "more" in queues:
        await lab.perform_many(worker, "more", 500, queue="more")
    await lab.perform(worker, "other", queue="other")
    await worker.start()
    await lab.until_started(1, "other")
    lab.check("soon_among_others", tag="other", limit=A_FEW)


@pytest.mark.parametrize("queues", ["full,other", "other,full"])
async def test_QUE_3_nor_when_the_worker_is_busy_already(lab: Lab, queues: str) -> None:
    worker = lab.worker(queues=queues, concurrency=2)
    await worker.start()
    held: dict[str, list[list[Any]]] = {"*": [["gate", "hold"]]}
    await lab.perform_many(worker, "full", 2, queue="full", do=held)
    await lab.until_started(1)
    await lab.perform_many(worker, "full", 1000, queue="full")
    await lab.perform(worker, "other", queue="other")
    lab.stage.open("hold")
    await lab.until_started(1, "other")
    lab.check("soon_among_others", tag="other", limit=A_FEW)


async def test_QUE_4_names(lab: Lab) -> None:
    worker = lab.worker(queues=f"default,{LONGEST}")
    await worker.start()
    for queue in ("", "a b", "a.b", "a,b", "a/b", "a:b", "é", "a\n", "a\0", "٣", LONGEST + "x"):
        name = f"perform in {queue!a}"
        await lab.refused(InvalidJobError, name, worker.perform(Job("act", {}, queue)))
    for nothing in (None, 5, b"default", ["default"]):
        unnamed = Job("act", {}, nothing)  # type: ignore[arg-type]
        await lab.refused(InvalidJobError, f"perform in {nothing!r}", worker.perform(unnamed))
    late = worker.perform_in(Job("act", {}, "a b"), 0.001)
    await lab.refused(InvalidJobError, "perform_in 'a b'", late)
    await lab.perform(worker, "120 characters", queue=LONGEST)
    await lab.until_ended(1, "120 characters")
    await lab.fence(worker)
    lab.check("each_once")
