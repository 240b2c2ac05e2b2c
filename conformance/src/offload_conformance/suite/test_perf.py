"""PERF: performing."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import pytest

from offload import (
    Args,
    InvalidJobError,
    Job,
    State,
    UnknownHandlerError,
    UnsupportedError,
    Worker,
)
from offload_conformance.lab import Lab, now
from offload_conformance.stage import DEADLINE

pytestmark = pytest.mark.asyncio

NO_LEASE = 5.0
"""Seconds to look for a second run where a job that is taken is never taken from its worker."""


async def test_PERF_1_ids_are_unique(lab: Lab) -> None:
    worker = lab.worker()
    for life in (1, 2):
        await worker.start()
        await lab.perform_all(worker, "one", 20)
        await lab.perform_many(worker, "many", 20)
        await lab.perform(worker, "later", delay=0.001)
        await lab.until_ended(41 * life)
        lab.check("each_once")
        await lab.stop(worker)


async def test_PERF_1_a_job_is_safe_when_perform_returns(lab: Lab) -> None:
    if not lab.claims.durable:
        # Then it is safe in this process, and nothing but its handler is needed any more.
        worker = lab.worker()
        await worker.start()
        job_id = await lab.perform(worker, "safe")
        await lab.until_ended(1)
        lab.check("each_once")
        lab.equal("the id that the handler sees", job_id, lab.history.named("ended")[0].what["id"])
        return
    first = lab.worker()
    async with lab.process() as victim:
        do = {"1": [["perform", "safe"], ["kill"]]}
        await lab.perform(first, "performs and dies", do=do)
        lab.equal("its exit code", -signal.SIGKILL.value, await victim.wait())
    await lab.stage.until("the answer to its perform", lambda: len(accepted(lab, "safe")) == 1)
    await first.start()
    # The victim may have taken it before it died.
    await lab.until_ended(1, "safe", lab.recovery + DEADLINE)
    lab.check("each_ran", tag="safe")


def accepted(lab: Lab, tag: str) -> list[Any]:
    return [event for event in lab.history.named("accepted") if event.what["tag"] == tag]


async def test_PERF_1_two_performers_give_no_id_twice(lab: Lab) -> None:
    workers = [lab.worker(), lab.worker()]
    for worker in workers:
        await worker.start()
    for _ in range(5):
        for worker in workers:
            await lab.perform(worker, "one")
    await lab.until_ended(10)
    lab.check("each_once")


async def test_PERF_2_each_job_runs_once(lab: Lab) -> None:
    worker = lab.worker()
    await worker.start()
    await lab.perform_many(worker, "many", 50)
    await lab.perform_all(worker, "at once", 50)
    for number in range(20):
        await lab.perform(worker, "later", delay=0.001 * number)
        await lab.perform(worker, "plain", handler="act-plain")
    await lab.until_ended(140)
    await lab.fence(worker)
    lab.check("each_once")


@pytest.mark.slow
async def test_PERF_2_nor_again_when_a_lease_is_over(lab: Lab) -> None:
    """What was settled stays settled, beside others who would take what is free."""
    options, lease = lab.lease
    worker = lab.worker(**options)
    await worker.start()
    others = [lab.worker(queues="default,fence", **options)] if lab.claims.distributed else []
    for other in others:
        await other.start()
    await lab.perform_many(worker, "done", 40)
    await lab.perform_all(worker, "done", 40)
    for how in (["reject", "no"], ["raise", "no"], ["retry", 0.1]):
        await lab.perform(worker, f"fails: {how[0]}", do={"1": [how]})
    await lab.until_ended(85)
    enough = lease + min(lab.recovery, 2.5 * lease) if lab.limits.recovery else NO_LEASE
    await lab.perform(worker, "enough", delay=enough)
    await lab.stage.until("enough time to pass", lambda: lab.ends("enough") > 0, enough + 15)
    for performer in (worker, *others):
        await lab.fence(performer)
    lab.check("each_once", tag="done")
    lab.check("attempts", tag="fails: reject", expected=[1])
    lab.check("attempts", tag="fails: raise", expected=[1, 2])
    lab.check("attempts", tag="fails: retry", expected=[1, 2])


async def test_PERF_3_perform_waits_for_no_handler(lab: Lab) -> None:
    worker = lab.worker(concurrency=1)
    await worker.start()
    await lab.perform(worker, "held", do={"*": [["gate", "g"]]})
    await lab.until_started(1)
    await soon(lab, "perform", lab.perform(worker, "behind it"))
    await soon(lab, "perform_many", lab.perform_many(worker, "behind it", 3))
    await soon(lab, "perform_in", lab.perform(worker, "behind it", delay=0))
    lab.equal("ends by then", 0, lab.ends())
    lab.stage.open("g")
    await lab.until_ended(6)
    lab.check("each_once")


async def test_PERF_3_nor_inside_a_handler(lab: Lab) -> None:
    worker = lab.worker()
    await worker.start()
    inner = {"*": [["gate", "g"]]}
    await lab.perform(worker, "outer", do={"*": [["perform", "inner", inner]]})
    await lab.stage.until(
        "the handler that performs to end before the one it performs",
        lambda: lab.ends("outer") == 1,
        deadline=5,
    )
    lab.equal("ends of the inner job by then", 0, lab.ends("inner"))
    lab.stage.open("g")
    await lab.until_ended(1, "inner")
    lab.check("each_once")


async def test_PERF_3_the_handler_runs_elsewhere(lab: Lab) -> None:
    worker = lab.worker(puppets=False)
    troupe = lab.troupe(worker)

    async def where(_: Args) -> None:
        task = asyncio.current_task()
        troupe.report("ran_in", task=None if task is None else task.get_name())

    worker.register("where", where)
    await lab.call("perform before start", worker.perform(Job("where")))
    await lab.caught_up(worker)
    lab.equal("runs before start", 0, len(lab.history.named("ran_in")))
    await worker.start()
    performer = asyncio.create_task(worker.perform(Job("where")), name="the performer")
    await lab.call("perform", performer)
    await lab.stage.until("a run", lambda: len(lab.history.named("ran_in")) > 0)
    await lab.stop(worker)
    tasks = [event.what["task"] for event in lab.history.named("ran_in")]
    lab.equal("runs in the task of the performer", 0, tasks.count("the performer"))


async def soon(lab: Lab, name: str, call: Any) -> Any:
    """What should not wait may take this long at most, on the busiest host."""
    try:
        return await asyncio.wait_for(call, 5)
    except TimeoutError:
        lab.equal(name, "an answer", "none within 5 s")


MALFORMED: list[Any] = [
    Job(""),
    Job("a b"),
    Job("a\n"),
    Job(None),  # type: ignore[arg-type]
    Job("x" * 129),
    Job("act", args=None),  # type: ignore[arg-type]
    Job("act", args=[1]),  # type: ignore[arg-type]
    Job("act", {"tag": object()}),
    {"handler": "act", "args": {"tag": "bad"}},
    "act",
    None,
]


async def test_PERF_4_a_malformed_job_is_refused(lab: Lab) -> None:
    lab.move_to_fresh_place()
    worker = lab.worker()
    for number, job in enumerate(MALFORMED):
        for name, call in (
            ("perform", worker.perform(job)),
            ("perform_in", worker.perform_in(job, 0)),
            ("perform_at", worker.perform_at(job, now())),
            ("perform_many", worker.perform_many([job])),
        ):
            await lab.refused(InvalidJobError, f"{name} of job {number}", call)
    await nothing_waits(lab, worker)
    await worker.start()
    await lab.fence(worker)
    lab.check("each_once")


async def nothing_waits(lab: Lab, worker: Worker) -> None:
    """The backend holds no job, as far as it can tell."""
    try:
        counts = await worker.counts()
    except UnsupportedError:
        return
    held = sum(
        each.waiting + (each.scheduled or 0) + (each.running or 0) + each.dead
        for each in counts.values()
    )
    lab.equal("jobs on the backend", 0, held)


async def test_PERF_5_performed_before_start(lab: Lab) -> None:
    worker = lab.worker()
    await lab.perform(worker, "early")
    await lab.perform(worker, "early", handler="act-plain")
    await lab.perform(worker, "early", delay=0.01)
    await lab.perform_many(worker, "early", 300)
    await lab.perform_all(worker, "early", 30)
    lab.equal("the state", State.NEW.value, worker.state.value)
    await worker.start()
    await lab.until_ended(333)
    await lab.fence(worker)
    lab.check("each_once")


@pytest.mark.parametrize("call", ["perform_many", "perform_in", "perform_at"])
async def test_PERF_5_as_the_first_that_ever_was(lab: Lab, call: str) -> None:
    """Whatever the first call to a backend is, it finds or makes there what it needs."""
    lab.move_to_fresh_place()
    worker = lab.worker()
    match call:
        case "perform_many":
            await lab.perform_many(worker, "first", 3)
        case "perform_in":
            await lab.perform(worker, "first", delay=0.01)
        case "perform_at":
            await lab.perform(worker, "first", at=now())
    await worker.start()
    await lab.until_ended(len(accepted(lab, "first")[0].what["ids"]))
    await lab.fence(worker)
    lab.check("each_once")


async def test_PERF_6_a_handler_that_is_not_registered_here(lab: Lab) -> None:
    worker = lab.worker()
    if lab.claims.distributed:
        await lab.perform(worker, "elsewhere", handler="else")
        await lab.perform(worker, "elsewhere", handler="else", delay=0.001)
        other = lab.worker()
        other.register("else", lab.troupe(other).act)
        await other.start()
        await lab.until_ended(2)
        lab.check("each_once")
        return
    job = Job("else", {"tag": "elsewhere"})
    for name, call in (
        ("perform", worker.perform(job)),
        ("perform_in", worker.perform_in(job, 0)),
        ("perform_at", worker.perform_at(job, now())),
        ("perform_many", worker.perform_many([job])),
    ):
        await lab.refused(UnknownHandlerError, name, call)
    await nothing_waits(lab, worker)
    worker.register("else", lab.troupe(worker).act)
    await worker.start()
    await lab.fence(worker)
    lab.check("never_ran", tag="elsewhere")
    lab.check("each_once")


async def test_PERF_7_inside_a_handler(lab: Lab) -> None:
    worker = lab.worker()
    await worker.start()
    do = {"*": [["perform", "inner"]] * 5}
    await lab.perform(worker, "outer", do=do)
    await lab.perform(worker, "outer", handler="act-plain", do=do)
    await lab.until_ended(10, "inner")
    await lab.until_ended(2, "outer")
    lab.check("ended_as", tag="outer", expected=["returned"] * 2)
    lab.check("each_once")


async def test_PERF_7_inside_a_handler_that_has_the_only_slot(lab: Lab) -> None:
    worker = lab.worker(concurrency=1)
    await worker.start()
    await lab.perform(worker, "outer", do={"*": [["perform", "inner"]] * 40})
    await lab.perform(worker, "outer", handler="act-plain", do={"*": [["perform", "inner"]] * 40})
    await lab.until_ended(80, "inner")
    lab.check("ended_as", tag="outer", expected=["returned"] * 2)
    lab.check("each_once")


async def test_PERF_7_from_1000_tasks_at_once(lab: Lab) -> None:
    worker = lab.worker()
    await worker.start()
    await lab.perform_all(worker, "one of many", 1000)
    await lab.until_ended(1000)
    await lab.fence(worker)
    lab.check("each_once")
