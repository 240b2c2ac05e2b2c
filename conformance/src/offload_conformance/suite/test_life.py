"""LIFE: start and stop; see also `test_life_stop`."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from offload import (
    AlreadyRunningError,
    BackendUnavailableError,
    Job,
    State,
    Worker,
    WorkerStoppedError,
)
from offload_conformance.lab import Lab, now
from offload_conformance.proxy import FaultProxy

pytestmark = pytest.mark.asyncio

GATE = {"*": [["gate", "g"]]}
AT_WORK = {"*": [["work", 0.05]]}
"""Long enough that two runs overlap where two may run at once."""

MARGIN = 0.5
"""Seconds that a busy host may add to what the contract allows."""


def state_is(lab: Lab, when: str, worker: Worker, expected: State) -> None:
    lab.equal(f"the state {when}", expected.value, worker.state.value)


async def held(lab: Lab, worker: Worker, tag: str = "held", count: int = 1, **job: Any) -> None:
    """Start jobs that wait at the gate."""
    for _ in range(count):
        await lab.perform(worker, tag, do=GATE, **job)
    await lab.until_started(count, tag)


async def until_it_drains(worker: Worker) -> None:
    """Wait for a worker whose stop was called; it may take a moment to notice."""
    for _ in range(100):
        if worker.state is State.RUNNING:
            await asyncio.sleep(0.005)


async def test_LIFE_1_the_state_can_be_read(lab: Lab) -> None:
    worker = lab.worker()
    state_is(lab, "before start", worker, State.NEW)
    await worker.start()
    await held(lab, worker)
    state_is(lab, "while a job runs", worker, State.RUNNING)
    stopping = await lab.begin_stop(worker)
    await until_it_drains(worker)
    state_is(lab, "while it drains", worker, State.STOPPING)
    lab.stage.open("g")
    await stopping
    state_is(lab, "after stop", worker, State.STOPPED)


@pytest.mark.parametrize("queue", ["default", "second"])
@pytest.mark.parametrize("idle", [0.0, 0.05], ids=["at once", "when idle"])
async def test_LIFE_2_start_returns_when_it_takes_jobs(lab: Lab, idle: float, queue: str) -> None:
    """Whichever of its queues it is that brings the first job, and when."""
    worker = lab.worker(queues="default,second")
    await worker.start()
    state_is(lab, "when start has returned", worker, State.RUNNING)
    await asyncio.sleep(idle)
    await lab.perform(worker, "first", queue=queue)
    await lab.until_ended(1)
    # Now it is idle: one job at a time, each without a push from another.
    for number in range(5):
        await lab.perform(worker, f"later-{number}", queue=queue)
        await lab.until_ended(1, f"later-{number}")
    lab.check("each_once")


async def test_LIFE_3_start_while_running_changes_nothing(lab: Lab) -> None:
    worker = lab.worker(concurrency=1)
    await worker.start()
    await held(lab, worker)
    await lab.refused(AlreadyRunningError, "start again", bounded(worker.start()))
    await lab.perform_all(worker, "after", 3, do=AT_WORK)
    lab.stage.open("g")
    await lab.until_ended(4)
    await lab.fence(worker)
    lab.check("each_once")
    lab.check("most_at_once", limit=1)


async def test_LIFE_3_two_starts_at_once_are_one(lab: Lab) -> None:
    worker = lab.worker(concurrency=1)
    starts = (worker.start(), worker.start())
    results = await asyncio.gather(*starts, return_exceptions=True)
    lab.equal(
        "what two starts at once give",
        ["AlreadyRunningError", "NoneType"],
        sorted(type(result).__name__ for result in results),
    )
    await lab.perform_all(worker, "some", 5, do=AT_WORK)
    await lab.until_ended(5)
    await lab.fence(worker)
    lab.check("each_once")
    lab.check("most_at_once", limit=1)


async def test_LIFE_3_start_while_draining_is_refused(lab: Lab) -> None:
    worker = lab.worker()
    await worker.start()
    await held(lab, worker)
    stopping = await lab.begin_stop(worker)
    await lab.refused(AlreadyRunningError, "start while draining", bounded(worker.start()))
    lab.stage.open("g")
    await stopping
    lab.check("all_ended_before", call=stopped(lab)[-1])
    lab.check("ended_as", tag="held", expected=["returned"])


async def bounded(call: Any) -> Any:
    """A call that should be refused at once: should it wait instead, not for ever."""
    return await asyncio.wait_for(call, 3)


def stopped(lab: Lab) -> list[str]:
    """The names of the stops that have returned."""
    return [event.what["call"] for event in lab.history.named("stopped")]


async def test_LIFE_4_start_with_the_backend_away(lab: Lab) -> None:
    server = lab.need_server()
    worker = lab.worker()
    await server.kill()
    lab.history.add("backend_killed")
    await start_is_refused_in_time(lab, worker)
    await server.start()
    await worker.start()
    await lab.perform(worker, "after")
    await lab.until_ended(1)
    lab.check("each_once")


@pytest.mark.slow
async def test_LIFE_4_nor_does_it_hang_when_nothing_answers(lab: Lab) -> None:
    """New connections are accepted, and then silent."""
    async with FaultProxy(lab.history, *lab.need_server().address) as proxy:
        other, worker = lab.worker(through=proxy), lab.worker(through=proxy)
        await lab.perform(other, "before")
        proxy.swallow()
        await start_is_refused_in_time(lab, worker)
        await proxy.heal()
        await other.stop()
        await worker.start()
        await lab.until_ended(1, "before")
        await worker.stop()  # while there is a way to its backend
    lab.check("each_once")


async def start_is_refused_in_time(lab: Lab, worker: Worker) -> None:
    """Start a worker whose backend is unavailable; it must raise within what the adapter states."""
    began = asyncio.get_running_loop().time()
    await lab.refused(BackendUnavailableError, "start", bounded_by_kit(worker.start()))
    took = asyncio.get_running_loop().time() - began
    what = "seconds until start raised"
    lab.check("at_most", what=what, limit=lab.reconnect, actual=took, slack=MARGIN)
    state_is(lab, "after that", worker, State.NEW)


async def bounded_by_kit(call: Any) -> Any:
    """A call that has a bound of its own: should it hang, not for ever."""
    return await asyncio.wait_for(call, 60)


async def refuse_performs(lab: Lab, worker: Worker, when: str) -> None:
    """Each way to perform must be refused, at once."""
    job = Job("act", {"tag": "too late"})
    for name, call in (
        ("perform", worker.perform(job)),
        ("perform_in", worker.perform_in(job, 0)),
        ("perform_at", worker.perform_at(job, now())),
        ("perform_many", worker.perform_many([job])),
    ):
        await lab.refused(WorkerStoppedError, f"{name} {when}", bounded(call))


async def test_LIFE_5_no_perform_once_stop_was_called(lab: Lab) -> None:
    worker = lab.worker()
    await worker.start()
    await held(lab, worker)
    stopping = await lab.begin_stop(worker)
    await refuse_performs(lab, worker, "while it drains")
    lab.stage.open("g")
    report = await stopping
    lab.equal("what the report has as returned or lost", [], [*report.returned, *report.lost])
    await refuse_performs(lab, worker, "after stop")
    await worker.start()
    await lab.fence(worker)
    lab.check("never_ran", tag="too late")
    lab.check("each_once")


async def test_LIFE_6_stop_waits_for_the_last_handler_and_takes_no_more(lab: Lab) -> None:
    worker = lab.worker(concurrency=3)
    await worker.start()
    await lab.perform(worker, "first", do={"*": [["gate", "1"]]})
    await lab.perform(worker, "last", do={"*": [["gate", "2"]]})
    await lab.perform(worker, "last", handler="act-plain", do={"*": [["gate", "2"]]})
    await lab.until_started(3)
    for _ in range(3):
        await lab.perform(worker, "waiting")
    stopping = await lab.begin_stop(worker)
    lab.stage.open("1")
    await lab.until_ended(1, "first")
    lab.stage.open("2")
    report = await stopping
    lab.check("all_ended_before", call=stopped(lab)[-1])
    lab.equal("how many jobs have run by then", 3, lab.runs())
    lab.equal("what the report has as finished", 3, report.finished)
    await worker.start()
    await lab.until_ended(6)
    await lab.fence(worker)
    lab.check("each_once")


async def test_LIFE_6_stop_waits_for_one_that_ran_past_its_timeout(lab: Lab) -> None:
    """It has failed, and its handler still runs."""
    worker = lab.worker(max_attempts=1)
    plain = lab.troupe(worker).act_plain
    worker.register("late", plain, timeout=0.03)
    await worker.start()
    await held(lab, worker, handler="late")
    await lab.until_dead(worker, 1)
    stopping = await lab.begin_stop(worker)
    await asyncio.wait([stopping], timeout=0.1)  # who doesn't wait for it has returned by then
    lab.equal("whether stop has returned while a handler runs", False, stopping.done())
    lab.stage.open("g")
    await stopping
    lab.check("all_ended_before", call=stopped(lab)[-1])
    lab.check("each_once")
