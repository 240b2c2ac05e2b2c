"""DIST: processes together."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import AsyncExitStack

import pytest

from offload import Args, Job, UnsupportedError, Worker
from offload_conformance import golden
from offload_conformance.lab import Lab
from offload_conformance.puppets import spell
from offload_conformance.rules import PREFETCH
from offload_conformance.suite.test_dur import PATIENCE, performs, strike, until_run

pytestmark = pytest.mark.asyncio

BACKLOG = 400
SINGLE = 30


async def perform_tally(lab: Lab, worker: Worker, count: int) -> None:
    """Perform so many jobs that only count themselves, recorded as one call."""
    job = Job("tally")
    ids = await lab.call("perform tally", worker.perform_many([job] * count))
    lab.history.add("accepted", call="perform tally", tag="tally", ids=ids)


def tallied(lab: Lab) -> int:
    """How many runs were counted."""
    return sum(len(event.what["ids"]) for event in lab.history.named("tallied"))


async def until_tallied(lab: Lab, count: int) -> None:
    """Return when so many runs were counted, and nothing is left that could run once more."""
    await lab.stage.until(f"{count} jobs to run", lambda: tallied(lab) >= count, 60)


async def test_DIST_1_four_workers_each_job_once(lab: Lab) -> None:
    workers = [lab.worker() for _ in range(4)]
    for worker in workers:
        worker.register("tally", lab.troupe(worker).tally)
        await worker.start()
    for worker in workers:
        await perform_tally(lab, worker, 75)
    await until_tallied(lab, 300)
    for worker in workers:
        await lab.fence(worker)
    lab.check("tallied_once", tag="tally")


async def test_DIST_1_workers_that_begin_at_once_on_an_empty_backend(lab: Lab) -> None:
    """Each finds that nothing is there yet, and makes it; none may fall over another."""
    lab.move_to_fresh_place()
    workers = [lab.worker() for _ in range(6)]
    performers = [lab.worker(puppets=False) for _ in range(6)]
    for worker in workers:
        worker.register("tally", lab.troupe(worker).tally)
    await asyncio.gather(
        *(lab.call(f"start {number}", worker.start()) for number, worker in enumerate(workers)),
        *(perform_tally(lab, performer, 10) for performer in performers),
    )
    await until_tallied(lab, 60)
    for worker in workers:
        await lab.fence(worker)
    lab.check("tallied_once", tag="tally")


async def test_DIST_1_each_arrives_whole(lab: Lab) -> None:
    """Nobody sees a part of a job that is still being stored, however long that takes."""
    performer, workers = lab.worker(puppets=False), [lab.worker() for _ in range(2)]
    for worker in workers:
        worker.register("note", lab.troupe(worker).note)
        await worker.start()
    args = {"payload": "x" * (lab.limits.max_job_bytes - 100)}
    for number in range(1, SINGLE + 1):
        job_id = await lab.call("perform", performer.perform(Job("note", args)))
        lab.history.add("performed", id=job_id, spelt=spell(args))
        await lab.stage.until(
            "it to arrive",
            lambda count=number: len(lab.history.named("received")) >= count,  # type: ignore[misc]
        )
    lab.check("arrived")
    attempts = [event.what["attempt"] for event in lab.history.named("received")]
    lab.equal("their attempts", [1] * SINGLE, attempts)


@pytest.mark.slow
async def test_DIST_1_processes_that_begin_at_once_on_an_empty_backend(lab: Lab) -> None:
    lab.move_to_fresh_place()
    processes = [lab.process() for _ in range(5)]
    try:
        await asyncio.gather(*(process.__aenter__() for process in processes))
        performer = lab.worker(puppets=False)
        await perform_tally(lab, performer, 200)
        await until_tallied(lab, 200)
        for _ in range(10):
            await lab.fence(performer)
    finally:
        for process in processes:
            await process.__aexit__()
    lab.check("tallied_once", tag="tally")


@pytest.mark.slow
async def test_DIST_1_four_processes_each_of_10_000_jobs_once(lab: Lab) -> None:
    performer = lab.worker()
    async with AsyncExitStack() as stack:
        for _ in range(4):
            await stack.enter_async_context(lab.process())
        for _ in range(20):
            await perform_tally(lab, performer, 500)
        await until_tallied(lab, 10_000)
        for _ in range(8):
            await lab.fence(performer)
        lab.check("tallied_once", tag="tally")


async def test_DIST_1_nor_again_when_others_start_and_stop(lab: Lab) -> None:
    """A worker that starts or stops touches nothing that another runs, or has taken ahead."""
    worker = lab.worker(concurrency=2)
    await worker.start()
    await lab.perform_many(worker, "running", 2, do={"*": [["gate", "held"]]})
    await lab.until_started(2, "running")
    await lab.perform_many(worker, "waiting", 10)
    for is_last in (False, False, True):
        other = lab.worker(queues="default,other")
        await other.start()
        await lab.fence(other, "other")
        await lab.fence(other, "other")
        if not is_last:
            await other.stop()
    lab.stage.open("held")
    await lab.until_ended(10, "waiting")
    await lab.fence(worker)
    lab.check("each_once")


async def test_DIST_2_a_performer_needs_neither_handlers_nor_a_start(lab: Lab) -> None:
    lab.move_to_fresh_place()
    performer = lab.worker(puppets=False)
    await lab.perform(performer, "before anybody runs")
    worker = lab.worker()
    await worker.start()
    await lab.perform(performer, "now")
    await lab.perform(performer, "later", delay=0.01)
    await lab.until_ended(3)
    await lab.fence(worker)
    lab.check("each_once")


async def test_DIST_3_an_idle_one_takes_from_a_busy_ones_backlog(lab: Lab) -> None:
    """All of it, but for what the busy one may have taken ahead for its one slot."""
    busy, idle = lab.worker(concurrency=1), lab.worker(concurrency=1)
    await busy.start()
    await lab.perform(busy, "long", do={"*": [["gate", "long"]]})
    await lab.until_started(1, "long")
    await lab.perform_all(busy, "backlog", SINGLE)
    await lab.perform_many(busy, "backlog", BACKLOG - SINGLE)
    await idle.start()
    await lab.until_ended(BACKLOG - PREFETCH, "backlog")
    least = BACKLOG - PREFETCH
    lab.check("ran_on", tag="backlog", worker=lab.troupe(idle).name, least=least)
    lab.stage.open("long")
    await lab.until_ended(BACKLOG, "backlog")
    lab.check("each_once")


async def test_DIST_4_every_released_wire_version_is_read(lab: Lab) -> None:
    inject = lab.need_inject()
    worker = lab.worker()
    await lab.perform(worker, "first")
    got: list[Args] = []

    async def note(args: Args) -> None:
        got.append(args)
        await lab.troupe(worker).act({"tag": "golden"})

    worker.register("golden", note)
    for body in lab.golden.values():
        await inject(namespace=lab.namespace, queue="default", body=body)
    await worker.start()
    await lab.until_ended(len(lab.golden), "golden")
    await lab.fence(worker)
    lab.equal("what arrived", [golden.ARGS] * len(lab.golden), got)


async def test_DIST_5_namespaces_do_not_see_each_other(lab: Lab) -> None:
    # Names that a careless prefix, pattern or length would take for the same.
    name = lab.namespace
    names = [name, f"{name}-2", f"{name}_2", name[:-1]]
    workers = {each: lab.worker(namespace=each, concurrency=1) for each in names}
    for each, worker in workers.items():
        await worker.start()
        await lab.perform(worker, each)
        await lab.perform(worker, f"later {each}", delay=0.02)
        await lab.perform(worker, f"dead {each}", do={"*": [["reject", each]]})
    for each, worker in workers.items():
        await lab.until_ended(1, each)
        await lab.until_ended(1, f"later {each}")
        letters = await lab.until_dead(worker, 1)
        if lab.claims.dead_letters:
            errors = [letter.error.rpartition(" ")[2] for letter in letters]
            lab.equal(f"the dead letters of {each}", [each], errors)
        await lab.fence(worker)
    lab.check("each_once")
    for each, worker in workers.items():
        troupe = lab.troupe(worker).name
        for tag in (each, f"later {each}", f"dead {each}"):
            lab.check("ran_on", tag=tag, worker=troupe, least=1)


async def test_DIST_5_what_waits_elsewhere_is_left_there(lab: Lab) -> None:
    """Where a worker is told of its own jobs only, it must be alone to take those of another."""
    name = lab.namespace
    names = [name[:-1], name, f"{name}-2", f"{name}_2", name.replace("-", "_")]
    workers = {each: lab.worker(namespace=each) for each in names}
    for each, worker in workers.items():
        await lab.perform(worker, each)
        await lab.perform(worker, f"later {each}", delay=0.02)
    with contextlib.suppress(UnsupportedError):
        counts = (await lab.worker(namespace=f"{name}-none").counts()).values()
        lab.equal("what is counted elsewhere", 0, sum(each.waiting + each.dead for each in counts))
    for each, worker in workers.items():
        await worker.start()
        await lab.until_ended(1, each)
        await lab.until_ended(1, f"later {each}")
        for _ in range(2):
            await lab.fence(worker)
        for tag in (each, f"later {each}"):
            lab.check("ran_on", tag=tag, worker=lab.troupe(worker).name, least=1)
    lab.check("each_once")


async def test_DIST_5_namespaces_are_told_apart_by_case(lab: Lab) -> None:
    small, large = lab.worker(), lab.worker(namespace=lab.namespace.upper())
    await small.start()
    await lab.perform(large, "large")
    await lab.perform(small, "small")
    await lab.fence(small)
    lab.check("never_ran", tag="large")
    await large.start()
    for tag in ("small", "large"):
        await lab.until_ended(1, tag)
    lab.check("each_once")


async def test_DIST_5_nor_by_a_name_that_runs_on_in_that_of_a_queue(lab: Lab) -> None:
    name = lab.namespace
    for joint in ("-", "_", ""):
        # Joined, both pairs of namespace and queue are the same.
        inner = lab.worker(namespace=f"{name}{joint}b", queues="a")
        outer = lab.worker(queues=f"b{joint}a")
        await inner.start()
        await lab.perform(outer, f"outer {joint}", queue=f"b{joint}a")
        await lab.fence(inner, "a")
        await lab.fence(inner, "a")
        lab.check("never_ran", tag=f"outer {joint}")
        await outer.start()
        await lab.until_ended(1, f"outer {joint}")
    lab.check("each_once")


async def test_DIST_5_nor_by_the_id_of_a_dead_letter(lab: Lab) -> None:
    lab.need("dead_letters")
    worker, stranger = lab.worker(), lab.worker(namespace=f"{lab.namespace}-2")
    await worker.start()
    job_id = await lab.perform(worker, "dead", do={"*": [["reject", "no"]]})
    await lab.until_dead(worker, 1)
    letters = stranger.dead_letters
    lab.equal("what is listed elsewhere", [], list(await letters.list()))
    lab.equal("what is shown elsewhere", None, await letters.show(job_id))
    lab.equal("what is requeued elsewhere", [], list(await letters.requeue([job_id])))
    lab.equal("what is discarded elsewhere", [], list(await letters.discard([job_id])))
    lab.equal("what is there", [job_id], [each.id for each in await lab.until_dead(worker, 1)])
    await lab.fence(worker)
    lab.check("each_once")


async def test_DIST_7_others_go_on_when_a_worker_is_killed(lab: Lab) -> None:
    worker = lab.worker(queues="default,other,own")
    await lab.perform(worker, "cut", queue="other", do={"1": [["gate", "hold"]]})
    async with lab.process(queues="default,other") as victim:
        await lab.until_started(1, "cut")
        await worker.start()
        await lab.fence(worker, "own")
        await victim.kill()
    await lab.perform_many(worker, "others", 20)
    await lab.perform_all(worker, "others", 5)
    await lab.until_ended(25, "others")
    lab.check("each_once", tag="others")
    if lab.limits.recovery is not None:
        await until_run(lab, "cut", 2, lab.recovery)
        lab.check("attempts", tag="cut", expected=[1, 2])
        lab.check("recovered_within", tag="cut", limit_s=lab.recovery)
        queues = [e.what["queue"] for e in lab.history.named("started") if e.what["tag"] == "cut"]
        lab.equal("the queues in which it ran", ["other", "other"], queues)


@pytest.mark.slow
async def test_DIST_8_workers_come_back_to_their_backend(lab: Lab) -> None:
    server = lab.need_server()
    worker, performer = lab.worker(), lab.worker(puppets=False)
    await worker.start()
    await lab.perform(performer, "running", do={"1": [["gate", "hold"]]})
    await lab.until_started(1, "running")
    back = await strike(lab, server)
    again = lambda: performs(lab, performer, "after")  # noqa: E731
    await lab.until("the performer to perform again", again, lab.reconnect + PATIENCE)
    await until_run(lab, "after", 1, lab.reconnect)
    waited = asyncio.get_running_loop().time() - back
    lab.check("at_most", what="seconds until they work again", limit=lab.reconnect, actual=waited)
