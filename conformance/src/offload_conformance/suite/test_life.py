"""LIFE: start and stop."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from offload import (
    AlreadyRunningError,
    BackendUnavailableError,
    Job,
    State,
    StopReport,
    Worker,
    WorkerStoppedError,
)
from offload_conformance.lab import Lab, logged, now
from offload_conformance.leaks import Belongings

pytestmark = pytest.mark.asyncio

GATE = {"*": [["gate", "g"]]}

MARGIN = 0.5
"""Seconds that a busy host may add to what the contract allows."""


def state_is(lab: Lab, when: str, worker: Worker, expected: State) -> None:
    lab.equal(f"the state {when}", expected.value, worker.state.value)


async def held(lab: Lab, worker: Worker, tag: str = "held", count: int = 1, **job: Any) -> None:
    """Start jobs that wait at the gate."""
    for _ in range(count):
        await lab.perform(worker, tag, do=GATE, **job)
    await lab.until_started(count, tag)


async def test_LIFE_1_the_state_can_be_read(lab: Lab) -> None:
    worker = lab.worker()
    state_is(lab, "before start", worker, State.NEW)
    await worker.start()
    await held(lab, worker)
    state_is(lab, "while a job runs", worker, State.RUNNING)
    stopping = await lab.begin_stop(worker)
    for _ in range(100):  # it may take a moment to notice
        if worker.state is State.RUNNING:
            await asyncio.sleep(0.005)
    state_is(lab, "while it drains", worker, State.STOPPING)
    lab.stage.open("g")
    await stopping
    state_is(lab, "after stop", worker, State.STOPPED)


async def test_LIFE_2_start_returns_when_it_takes_jobs(lab: Lab) -> None:
    worker = lab.worker()
    await worker.start()
    state_is(lab, "when start has returned", worker, State.RUNNING)
    await lab.perform(worker, "first")
    await lab.until_ended(1)
    # Now it is idle: one job at a time, each without a push from another.
    for number in range(5):
        await lab.perform(worker, f"later-{number}")
        await lab.until_ended(1, f"later-{number}")
    lab.check("each_once")


async def test_LIFE_3_start_while_running_changes_nothing(lab: Lab) -> None:
    worker = lab.worker(concurrency=1)
    await worker.start()
    await held(lab, worker)
    await lab.refused(AlreadyRunningError, "start again", bounded(worker.start()))
    for _ in range(3):
        await lab.perform(worker, "after")
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
    await lab.perform_all(worker, "some", 5)
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
    limit = lab.limits.reconnect
    if limit is None:
        raise AssertionError("need_server has let it pass")
    await server.kill()
    lab.history.add("backend_killed")
    began = asyncio.get_running_loop().time()
    await lab.refused(BackendUnavailableError, "start", bounded_by_kit(worker.start()))
    took = asyncio.get_running_loop().time() - began
    lab.check(
        "at_most",
        what="seconds until start raised",
        limit=limit.total_seconds() + MARGIN,
        actual=took,
    )
    state_is(lab, "after that", worker, State.NEW)
    await server.start()
    await worker.start()
    await lab.perform(worker, "after")
    await lab.until_ended(1)
    lab.check("each_once")


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


async def unfinished(lab: Lab, worker: Worker, ids: list[str], grace: float) -> None:
    """Stop, and check that it took what is allowed, and told what became of these."""
    report = await lab.stop(worker, within=grace + 5)
    took = lab.history.named("stopped")[-1].what["seconds"]
    lab.check("at_least", what="seconds that stop took", limit=grace * 0.9, actual=took)
    lab.check("at_most", what="seconds that stop took", limit=grace + 1 + MARGIN, actual=took)
    told = report.returned if lab.claims.durable else report.lost
    lab.equal("what the report has as unfinished", sorted(ids), sorted(told))
    lab.equal("what the report has as finished", 0, report.finished)


async def test_LIFE_7_after_the_grace_a_handler_is_cancelled(lab: Lab) -> None:
    worker = lab.worker(grace="30ms")
    await worker.start()
    job_id = await lab.perform(worker, "held", do=GATE)
    await lab.until_started(1)
    await unfinished(lab, worker, [job_id], 0.03)
    lab.check("all_ended_before", call=stopped(lab)[-1])
    lab.check("ended_as", tag="held", expected=["CancelledError"])
    lab.stage.open("g")
    await worker.start()
    await lab.until_ended(2)
    lab.check("attempts", tag="held", expected=[1, 1])


async def test_LIFE_7_stop_returns_whatever_handlers_do(lab: Lab) -> None:
    worker = lab.worker(grace="30ms")
    await lab.caught_up(worker)
    before = Belongings.now()
    await worker.start()
    ids = [
        await lab.perform(worker, "async", do=GATE),
        await lab.perform(worker, "plain", handler="act-plain", do=GATE),
        await lab.perform(worker, "stubborn", do={"*": [["endure", "g"]]}),
    ]
    await lab.until_started(3)
    await unfinished(lab, worker, ids, 0.03)
    lab.equal("ends of the handlers that can't be stopped", 0, lab.ends("plain"))
    lab.stage.open("g")
    await lab.until_ended(3)
    await worker.start()
    await lab.until_ended(6)
    for tag in ("async", "plain", "stubborn"):
        lab.check("attempts", tag=tag, expected=[1, 1])
    await lab.stop(worker)
    await nothing_stays(lab, before)


async def nothing_stays(lab: Lab, before: Belongings) -> None:
    """Return when what could not be ended at once has ended by itself."""

    async def all_gone() -> bool:
        return not Belongings.now().more_than(before)

    await lab.until("every task, thread and file to be gone", all_gone)


async def test_LIFE_8_every_stop_returns_after_the_one_drain(lab: Lab) -> None:
    worker = lab.worker()
    await worker.start()
    await held(lab, worker)
    stops = [await lab.begin_stop(worker) for _ in range(3)]
    lab.equal("stops that return while a handler runs", 0, sum(stop.done() for stop in stops))
    lab.stage.open("g")
    await asyncio.gather(*stops)
    await lab.stop(worker)
    for call in stopped(lab):
        lab.check("all_ended_before", call=call)
    lab.equal("how many stops have returned", 4, len(stopped(lab)))
    lab.check("ended_as", tag="held", expected=["returned"])


async def test_LIFE_8_stop_before_start(lab: Lab) -> None:
    worker = lab.worker()
    report = await lab.stop(worker)
    lab.equal("its report", repr(StopReport()), repr(report))
    await lab.stop(worker)
    await worker.start()
    await lab.perform(worker, "after")
    await lab.until_ended(1)
    lab.check("each_once")


async def test_LIFE_9_start_after_stop_goes_on(lab: Lab) -> None:
    worker = lab.worker(concurrency=1)
    await worker.start()
    worker.register("late", lab.troupe(worker).act)
    await lab.perform(worker, "scheduled", delay=0.15)
    await held(lab, worker)
    for _ in range(3):
        await lab.perform(worker, "waiting")
    stopping = await lab.begin_stop(worker)
    lab.stage.open("g")
    await stopping
    await worker.start()
    await lab.perform(worker, "new", handler="late")
    await lab.until_ended(6)
    await lab.fence(worker)
    lab.check("each_once")
    lab.check("never_early")
    # And once more, with nothing to do.
    await lab.stop(worker)
    await worker.start()
    await lab.fence(worker)
    lab.check("each_once")


async def test_LIFE_10_nothing_is_left(lab: Lab) -> None:
    worker = lab.worker()
    await lab.caught_up(worker)
    before = Belongings.now()
    # Performed before start, run, started again with nothing to do.
    await lab.perform(worker, "early")
    await worker.start()
    await lab.perform(worker, "plain", handler="act-plain")
    await lab.perform(worker, "scheduled", delay=3600)
    await lab.until_ended(1, "plain")
    await lab.stop(worker)
    lab.equal("left after stop", [], Belongings.now().more_than(before))
    await worker.start()
    await lab.stop(worker)
    lab.equal("left after a second stop", [], Belongings.now().more_than(before))


async def test_LIFE_10_nothing_is_left_of_one_that_only_performed(lab: Lab) -> None:
    worker = lab.worker()
    await lab.caught_up(worker)
    before = Belongings.now()
    await lab.perform(worker, "early")
    await lab.stop(worker)
    lab.equal("left after stop", [], Belongings.now().more_than(before))


@pytest.mark.parametrize("handler", ["act", "act-plain"])
async def test_LIFE_11_stop_inside_a_handler(lab: Lab, handler: str) -> None:
    worker = lab.worker(grace="2s")
    await worker.start()
    await lab.perform(worker, "stops", handler=handler, do={"*": [["stop"]]})
    await lab.until_ended(1)
    lab.check("ended_as", tag="stops", expected=["returned"])
    reports = [event.what["report"] for event in lab.history.named("stop_returned")]
    lab.equal("the report inside the handler", [repr(StopReport())], reports)
    await lab.stop(worker)
    await worker.start()
    await lab.fence(worker)
    lab.check("each_once")


async def test_LIFE_12_a_cancelled_stop_is_finished_by_a_second(lab: Lab) -> None:
    worker = lab.worker()
    await worker.start()
    await held(lab, worker)
    stopping = asyncio.create_task(worker.stop())
    await asyncio.sleep(0)
    stopping.cancel()
    await asyncio.wait([stopping], timeout=3)
    lab.equal("whether stop was cancelled", expected=True, actual=stopping.cancelled())
    lab.check("ended_as", tag="held", expected=[])
    second = await lab.begin_stop(worker)
    lab.stage.open("g")
    await second
    lab.check("all_ended_before", call=stopped(lab)[-1])
    lab.check("ended_as", tag="held", expected=["returned"])
    state_is(lab, "after that", worker, State.STOPPED)
    await worker.start()
    await lab.fence(worker)
    lab.check("each_once")


@pytest.mark.parametrize("turns", [0, 1, 2, 4, 7])
async def test_LIFE_12_a_cancelled_start_leaves_a_defined_state(lab: Lab, turns: int) -> None:
    worker = lab.worker()
    await lab.caught_up(worker)
    before = Belongings.now()
    starting = asyncio.create_task(worker.start())
    for _ in range(turns):
        await asyncio.sleep(0)
    starting.cancel()
    await asyncio.wait([starting], timeout=3)
    lab.equal("whether start has ended", expected=True, actual=starting.done())
    if worker.state is not State.RUNNING:
        state_is(lab, "after start was cancelled", worker, State.NEW)
        await lab.call("start", worker.start())
    await lab.fence(worker)
    await lab.stop(worker)
    state_is(lab, "after stop", worker, State.STOPPED)
    lab.check("each_once")
    await nothing_stays(lab, before)


async def test_LIFE_12_stop_after_a_cancelled_start(lab: Lab) -> None:
    worker = lab.worker()
    await lab.caught_up(worker)
    before = Belongings.now()
    starting = asyncio.create_task(worker.start())
    await asyncio.sleep(0)
    stopping = asyncio.create_task(lab.stop(worker))
    await asyncio.sleep(0)
    starting.cancel()
    await asyncio.wait([starting], timeout=3)
    await stopping
    state_is(lab, "after stop", worker, State.STOPPED)
    await nothing_stays(lab, before)


async def test_LIFE_13_the_report_counts_what_finished(lab: Lab) -> None:
    worker = lab.worker()
    await worker.start()
    await lab.perform(worker, "before")
    await lab.until_ended(1)
    await held(lab, worker, count=2)
    await lab.perform(worker, "fails", do={"1": [["gate", "g"], ["reject", "no"]]})
    await lab.until_started(4)
    stopping = await lab.begin_stop(worker)
    lab.stage.open("g")
    report = await stopping
    lab.equal("what the report has as finished", 3, report.finished)
    lab.equal("what the report has as returned or lost", [], [*report.returned, *report.lost])


async def test_LIFE_13_no_job_vanishes_in_silence(lab: Lab) -> None:
    worker = lab.worker(concurrency=1, grace="0s")
    await worker.start()
    with logged() as lines:
        running = await lab.perform(worker, "running", do=GATE)
        await lab.until_started(1)
        waiting = [await lab.perform(worker, "waiting") for _ in range(3)]
        waiting.append(await lab.perform(worker, "scheduled", delay=0.1))
        report = await lab.stop(worker)
    if lab.claims.durable:
        lab.equal("what the report has as lost", [], list(report.lost))
        lab.check("contains", what="the returned", part=running, actual=" ".join(report.returned))
        # Others may have been fetched ahead: these, and no stranger.
        others = {*report.returned} - {running, *waiting}
        lab.equal("what else the report has as returned", [], sorted(others))
        # The rest is safe in the backend: all of it.
        lab.stage.open("g")
        await worker.start()
        await lab.until_ended(6)
        lab.check("attempts", tag="running", expected=[1, 1])
        lab.check("each_ran")
    else:
        told = sorted(report.lost)
        lab.equal("what the report has as lost", sorted([running, *waiting]), told)
        for job_id in report.lost:
            lab.check("contains", what="the warnings", part=job_id, actual="\n".join(lines))
