"""DEAD: looking after dead letters."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import Any

import pytest

import offload
from offload import Job, Worker
from offload_conformance.lab import Lab
from offload_conformance.puppets import spell

pytestmark = pytest.mark.asyncio


async def make_dead(lab: Lab, worker: Worker, count: int) -> list[str]:
    """So many dead letters; the reason of each is its number."""
    ids = []
    for number in range(count):
        do = {"*": [["reject", f"reason {number}"]]}
        ids.append(await lab.perform(worker, f"dead {number}", do=do))
    await lab.until_dead(worker, count)
    return ids


async def dead_ids(worker: Worker) -> list[str]:
    """The ids of all dead letters."""
    return [letter.id for letter in await worker.dead_letters.list()]


async def test_DEAD_1_listed_by_page_each_with_its_reason(lab: Lab) -> None:
    worker = lab.worker(max_attempts=3)
    await worker.start()
    # What was performed first dies last: neither its id nor its perform tells its place.
    do: dict[str, list[list[Any]]] = {"*": [["gate", "last"], ["reject", "reason 7"]]}
    last = await lab.perform(worker, "dead 7", do=do)
    ids = [*await make_dead(lab, worker, 7), last]
    lab.stage.open("last")
    await lab.until_dead(worker, 8)
    pages: list[list[offload.DeadLetter]] = []
    after = None
    while page := list(await worker.dead_letters.list(limit=3, after=after)):
        pages.append(page)
        lab.check("at_most", what="the number of pages", limit=3, actual=len(pages))
        after = page[-1].cursor
    letters = [letter for page in pages for letter in page]
    lab.equal("the sizes of the pages", [3, 3, 2], [len(page) for page in pages])
    lab.equal("all that were listed", sorted(ids), sorted(letter.id for letter in letters))
    died = [letter.died_ms for letter in letters]
    lab.equal("when they died, the oldest first", sorted(died), died)
    lab.equal("the last of all", last, letters[-1].id)
    for letter in letters:
        reason = f"reason {ids.index(letter.id)}"
        lab.check("contains", what="its error", part=reason, actual=letter.error)
    await lab.check_dead(letters, 3)
    shown = await worker.dead_letters.show(ids[4])
    lab.equal("the one that is shown", ids[4], shown and shown.id)
    lab.equal("one that isn't there", None, await worker.dead_letters.show("unknown"))


async def test_DEAD_1_where_nothing_ever_was(lab: Lab) -> None:
    """To look is the first call to a backend; then a job dies there."""
    lab.move_to_fresh_place()
    worker = lab.worker()
    letters = worker.dead_letters
    lab.equal("what is listed", [], list(await lab.call("list", letters.list())))
    lab.equal("what is shown", None, await letters.show("unknown"))
    lab.equal("what is requeued", [], list(await letters.requeue(["unknown"])))
    lab.equal("what is discarded", [], list(await letters.discard(["unknown"])))
    await worker.start()
    ids = await make_dead(lab, worker, 1)
    lab.equal("what is listed then", ids, await dead_ids(worker))


async def test_DEAD_1_hundreds_that_died_together(lab: Lab) -> None:
    worker = lab.worker(concurrency=100)
    await worker.start()
    ids = await lab.perform_many(worker, "dead", 300, do={"*": [["reject", "no"]]})
    await lab.until_ended(300, "dead")
    listed: list[str] = []

    async def all_are_listed() -> bool:
        listed.clear()
        after = None
        while page := list(await worker.dead_letters.list(limit=37, after=after)):
            listed.extend(letter.id for letter in page)
            after = page[-1].cursor
        return len(listed) >= 300

    await lab.until("300 dead letters", all_are_listed)
    lab.equal("all that were listed", sorted(ids), sorted(listed))


async def test_DEAD_4_a_page_begins_behind_a_place_that_is_empty_by_now(lab: Lab) -> None:
    worker = lab.worker()
    await worker.start()
    # It dies behind the last place, though it was performed before all of them.
    do: dict[str, list[list[Any]]] = {"*": [["gate", "later"], ["reject", "later"]]}
    later = await lab.perform(worker, "later", do=do)
    await make_dead(lab, worker, 7)
    ids = await dead_ids(worker)  # in their own order, which need not be that of the performs
    letters = worker.dead_letters
    seen: list[str] = []
    after = None
    while page := list(await letters.list(limit=2, after=after)):
        seen += [letter.id for letter in page]
        lab.check("at_most", what="how many were listed", limit=7, actual=len(seen))
        after = page[-1].cursor
        # The entry at the place goes, and another one behind it.
        await letters.discard([page[-1].id, ids[6]])
    lab.equal("all that were listed", ids[:6], seen)
    lab.stage.open("later")
    await lab.until_dead(worker, 4)
    found = [letter.id for letter in await letters.list(after=after)]
    lab.equal("what has died behind the last place", [later], found)


async def test_DEAD_2_a_requeued_one_runs_as_attempt_1(lab: Lab) -> None:
    worker = lab.worker(max_attempts=2)
    act = lab.troupe(worker).act
    fails: list[list[Any]] = [["raise", "boom"]]
    # It fails in its second life, too, where it has all of its attempts again.
    lives = iter([fails, fails, [["gate", "c"], *fails], []])

    async def reborn(args: offload.Args) -> None:
        await act({**args, "do": {"*": next(lives)}})

    worker.register("reborn", reborn, backoff=offload.constant(timedelta(0)))
    await worker.start()
    job_id = await lab.perform(worker, "job", handler="reborn")
    await lab.until_dead(worker, 1)
    requeued = await worker.dead_letters.requeue([job_id, "unknown", job_id])
    lab.equal("what was requeued", [job_id], list(requeued))
    await lab.until_started(3, "job")
    lab.equal("the dead letters while it runs", [], await dead_ids(worker))
    lab.equal("the entry while it runs", None, await worker.dead_letters.show(job_id))
    lab.stage.open("c")
    await lab.until_ended(4, "job")
    await lab.fence(worker)
    lab.check("attempts", tag="job", expected=[1, 2, 1, 2])
    lab.equal("the dead letters after it", [], await dead_ids(worker))


def register_reborn(lab: Lab, worker: Worker) -> None:
    """Register `reborn`, of which each job dies in its first life and ends well in the others."""
    act = lab.troupe(worker).act
    died: set[str] = set()

    async def reborn(args: offload.Args) -> None:
        steps = [] if args["tag"] in died else [["reject", "boom"]]
        died.add(args["tag"])
        await act({**args, "do": {"*": steps}})

    worker.register("reborn", reborn)


async def test_DEAD_2_an_idle_worker_starts_it_at_once(lab: Lab) -> None:
    worker = lab.worker()
    register_reborn(lab, worker)
    await worker.start()
    late: list[float] = []
    for tag in (f"job {number}" for number in range(7)):
        job_id = await lab.perform(worker, tag, handler="reborn")
        await lab.until_dead(worker, 1)
        await worker.dead_letters.requeue([job_id])
        answered_ms = time.time_ns() / 1e6
        await lab.until_ended(2, tag)
        late.append(lab.history.named("started")[-1].what["wall_ms"] - answered_ms)
    limit_ms = 4 * (lab.limits.lateness / timedelta(milliseconds=1))
    lab.check("at_most", what="ms that most are late", limit=limit_ms, actual=sorted(late)[4])
    lab.equal("the dead letters", [], await dead_ids(worker))


async def test_DEAD_2_as_large_as_a_job_may_be(lab: Lab) -> None:
    worker = lab.worker()
    note, lives = lab.troupe(worker).note, iter([True, False])

    async def reborn(args: offload.Args) -> None:
        if next(lives):
            raise offload.Reject("too large")
        await note(args)

    worker.register("reborn", reborn)
    await worker.start()
    args = {"payload": "x" * (lab.limits.max_job_bytes - 100)}
    job_id = await lab.call("perform", worker.perform(Job("reborn", args)))
    lab.history.add("performed", id=job_id, spelt=spell(args))
    await lab.until_dead(worker, 1)
    requeued = await worker.dead_letters.requeue([job_id])
    lab.equal("what was requeued", [job_id], list(requeued))
    received = lambda: bool(lab.history.named("received"))  # noqa: E731
    await lab.stage.until("it to arrive", received)
    lab.check("arrived")
    attempts = [event.what["attempt"] for event in lab.history.named("received")]
    lab.equal("its attempts", [1], attempts)


async def test_DEAD_2_requeued_by_two_at_once_it_is_there_once(lab: Lab) -> None:
    worker = lab.worker()
    other = lab.worker() if lab.claims.distributed else worker
    act = lab.troupe(worker).act
    died: set[str] = set()

    async def reborn(args: offload.Args) -> None:
        # It waits in its second life, so that it can't die again before all have asked.
        step = ["gate", "all have asked"] if args["tag"] in died else ["reject", "boom"]
        died.add(args["tag"])
        await act({**args, "do": {"*": [step]}})

    worker.register("reborn", reborn)
    await worker.start()
    # Enough of them that the two are at work at the same time.
    tags = [f"job {number}" for number in range(20)]
    ids = [await lab.perform(worker, tag, handler="reborn") for tag in tags]
    await lab.until_dead(worker, len(tags))
    answers = await asyncio.gather(
        *(each.dead_letters.requeue(ids) for each in (worker, other, worker, other))
    )
    lab.equal("what was requeued", sorted(ids), sorted(i for answer in answers for i in answer))
    lab.stage.open("all have asked")
    for tag in tags:
        await lab.until_ended(2, tag)
    await lab.fence(worker)
    for tag in tags:
        lab.check("attempts", tag=tag, expected=[1, 1])
    lab.equal("the dead letters", [], await dead_ids(worker))


MOMENTS = 16
"""How many requeues are cut short: half after some turns of the event loop, half after a delay."""
CUT_LATER = 0.00015
"""Seconds by which the delay grows from one to the next."""


async def test_DEAD_2_cut_short_it_is_there_still(lab: Lab) -> None:
    """Who gives up amid a requeue has either the entry or the job, whichever call was cut."""
    worker = lab.worker()
    register_reborn(lab, worker)
    await worker.start()
    tags = [f"job {number}" for number in range(MOMENTS)]
    ids = [await lab.perform(worker, tag, handler="reborn") for tag in tags]
    await lab.until_dead(worker, MOMENTS)
    for number, job_id in enumerate(ids):
        requeueing = asyncio.create_task(worker.dead_letters.requeue([job_id]))
        if number % 2:
            await asyncio.sleep(number * CUT_LATER)
        else:
            for _ in range(number // 2 + 1):
                await asyncio.sleep(0)
        requeueing.cancel()
        await asyncio.wait([requeueing])
    await lab.fence(worker)
    await worker.dead_letters.requeue(await dead_ids(worker))
    for tag in tags:
        await lab.until_ended(2, tag)
    await lab.fence(worker)
    # What is cut short may be done twice; it must not be lost.
    lab.equal("whether each ran again", expected=True, actual=all(lab.runs(t) > 1 for t in tags))
    lab.equal("the dead letters", [], await dead_ids(worker))


async def test_DEAD_2_all_are_those_that_are_there(lab: Lab) -> None:
    """What dies again while all are requeued is left, or there would be no end to it."""
    worker = lab.worker()
    await worker.start()
    ids = await make_dead(lab, worker, 3)
    count = await lab.call("requeue_all", asyncio.wait_for(worker.dead_letters.requeue_all(), 10))
    lab.equal("how many were requeued", 3, count)
    await lab.until_ended(6)
    letters = await lab.until_dead(worker, 3)
    lab.equal("what has died again", sorted(ids), sorted(letter.id for letter in letters))
    for number in range(3):
        lab.check("attempts", tag=f"dead {number}", expected=[1, 1])


async def test_DEAD_3_all_are_gone(lab: Lab) -> None:
    worker = lab.worker()
    await worker.start()
    await make_dead(lab, worker, 3)
    count = await lab.call("discard_all", asyncio.wait_for(worker.dead_letters.discard_all(), 10))
    lab.equal("how many were discarded", 3, count)
    lab.equal("the dead letters", [], await dead_ids(worker))
    await lab.fence(worker)
    for number in range(3):
        lab.check("attempts", tag=f"dead {number}", expected=[1])


async def test_DEAD_3_a_discarded_one_is_gone(lab: Lab) -> None:
    worker = lab.worker()
    await worker.start()
    first, second = await make_dead(lab, worker, 2)
    letters = worker.dead_letters
    discarded = await letters.discard([first, "unknown", first])
    lab.equal("what was discarded", [first], list(discarded))
    lab.equal("the dead letters", [second], await dead_ids(worker))
    lab.equal("the discarded one", None, await letters.show(first))
    lab.equal("requeueing it", [], list(await letters.requeue([first])))
    await lab.fence(worker)
    lab.check("attempts", tag="dead 0", expected=[1])
