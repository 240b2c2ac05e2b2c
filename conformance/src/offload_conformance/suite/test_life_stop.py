"""LIFE: start and stop; what becomes of what is unfinished, and of stops in odd moments."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

import offload
from offload import State, StopReport, Worker
from offload_conformance.lab import Lab
from offload_conformance.leaks import Belongings
from offload_conformance.logs import logged
from offload_conformance.suite.test_life import (
    GATE,
    MARGIN,
    held,
    state_is,
    stopped,
    until_it_drains,
)

pytestmark = pytest.mark.asyncio


async def unfinished(lab: Lab, worker: Worker, ids: list[str], grace: float) -> None:
    """Stop, and check that it took what is allowed, and told what became of these."""
    report = await lab.stop(worker, within=grace + 5)
    took = lab.history.named("stopped")[-1].what["seconds"]
    lab.check("at_least", what="seconds that stop took", limit=grace * 0.9, actual=took)
    lab.check("at_most", what="seconds that stop took", limit=grace + 1 + MARGIN, actual=took)
    told = report.returned if lab.is_shared else report.lost
    lab.equal("what the report has as unfinished", sorted(ids), sorted(told))
    lab.equal("what the report has as finished", 0, report.finished)


async def test_LIFE_7_after_the_grace_a_handler_is_cancelled(lab: Lab) -> None:
    worker = lab.worker(grace="30ms")
    await worker.start()
    failed: dict[str, list[list[Any]]] = {"1": [["raise", "boom"]], **GATE}
    ids = [
        await lab.perform(worker, "held", do=GATE),
        await lab.perform(worker, "again", do=failed),
    ]
    await lab.until_started(3)
    await unfinished(lab, worker, ids, 0.03)
    lab.check("all_ended_before", call=stopped(lab)[-1])
    lab.check("ended_as", tag="held", expected=["CancelledError"])
    lab.check("ended_as", tag="again", expected=["ValueError", "CancelledError"])
    lab.stage.open("g")
    await worker.start()
    await lab.until_ended(5)
    lab.check("attempts", tag="held", expected=[1, 1])
    lab.check("attempts", tag="again", expected=[1, 2, 2])


async def test_LIFE_7_one_grace_is_for_all_handlers(lab: Lab) -> None:
    count, grace = 10, 0.2  # one grace after the other is longer than what a busy host may add
    worker = lab.worker(grace="200ms", concurrency=count)
    await worker.start()
    ids = await lab.perform_all(worker, "held", count, do=GATE)
    await lab.until_started(count)
    await unfinished(lab, worker, ids, grace)
    lab.check("all_ended_before", call=stopped(lab)[-1])


async def test_LIFE_7_stop_returns_whatever_handlers_do(lab: Lab) -> None:
    worker = lab.worker(grace="30ms")
    await lab.caught_up(worker)
    before = Belongings.now()
    await worker.start()
    fails: dict[str, list[list[Any]]] = {"1": [["gate", "g"], ["raise", "boom"]]}
    ids = [
        await lab.perform(worker, "async", do=GATE),
        await lab.perform(worker, "plain", handler="act-plain", do=GATE),
        await lab.perform(worker, "stubborn", do={"*": [["endure", "g"]]}),
        await lab.perform(worker, "fails", handler="act-plain", do=fails),
    ]
    await lab.until_started(4)
    await unfinished(lab, worker, ids, 0.03)
    lab.equal("ends of the handlers that can't be stopped", 0, lab.ends("plain"))
    lab.stage.open("g")
    await lab.until_ended(4)
    await worker.start()
    await lab.until_ended(9)
    report = await lab.stop(worker)
    lab.equal("what is left after it", [], [*report.returned, *report.lost])
    for tag in ("async", "plain", "stubborn"):
        lab.check("attempts", tag=tag, expected=[1, 1])
    # How the run ended that the stop gave up counts for nothing: nor did it run amid the last stop.
    lab.check("attempts", tag="fails", expected=[1, 1, 2])
    await nothing_stays(lab, before)


async def nothing_stays(lab: Lab, before: Belongings) -> None:
    """Return when what could not be ended at once has ended by itself."""

    async def all_gone() -> bool:
        return not Belongings.now().more_than(before)

    await lab.until("every task, thread and file to be gone", all_gone)


async def test_LIFE_7_what_may_not_perform_is_given_back(lab: Lab) -> None:
    """A handler that fails because of the drain hasn't failed, so it is no attempt."""
    worker = lab.worker(max_attempts=1)
    await worker.start()
    do: dict[str, list[list[Any]]] = {"1": [["gate", "g"], ["perform", "child"]]}
    job_id = await lab.perform(worker, "parent", do=do)
    await lab.until_started(1)
    stopping = await lab.begin_stop(worker)
    await until_it_drains(worker)
    lab.stage.open("g")
    report = await stopping
    lab.check("ended_as", tag="parent", expected=["WorkerStoppedError"])
    lab.equal("what is given back", [job_id], [*report.returned, *report.lost])
    await worker.start()
    await lab.until_ended(2, "parent")
    await lab.until_ended(1, "child")
    await lab.fence(worker)
    lab.check("attempts", tag="parent", expected=[1, 1])
    lab.check("each_once", tag="child")


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
    lab.move_to_fresh_place()
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
    await lab.perform(worker, "scheduled", delay=7200)
    await lab.until_ended(1, "plain")
    await lab.stop(worker)
    lab.equal("left after stop", [], Belongings.now().more_than(before))
    lab.equal("what goes on after stop", [], Belongings.now().goes_on_beside(before))
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
    await lab.until("the worker to stop, since a handler said so", lambda: is_stopped(worker))
    await lab.stop(worker)
    await worker.start()
    await lab.fence(worker)
    lab.check("each_once")


async def is_stopped(worker: Worker) -> bool:
    return worker.state is State.STOPPED


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
    lab.move_to_fresh_place()
    worker = lab.worker()
    await lab.caught_up(worker)
    before = Belongings.now()
    starting = asyncio.create_task(worker.start())
    for _ in range(turns):
        await asyncio.sleep(0)
    starting.cancel()
    await asyncio.wait([starting], timeout=3)
    lab.equal("whether start has ended", expected=True, actual=starting.done())
    is_defined = worker.state in (State.NEW, State.RUNNING)
    lab.equal("whether its state is defined", expected=True, actual=is_defined)
    if worker.state is State.NEW:
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
    soon = offload.constant(timedelta(seconds=0.3))
    worker.register("fails", lab.troupe(worker).act, backoff=soon)
    await worker.start()
    with logged() as lines:
        fails: dict[str, list[list[Any]]] = {"1": [["raise", "boom"]]}
        retried = await lab.perform(worker, "retried", handler="fails", do=fails)
        await lab.until_ended(1)
        await lab.fence(worker)
        running = await lab.perform(worker, "running", do=GATE)
        await lab.until_started(1, "running")
        waiting = [await lab.perform(worker, "waiting") for _ in range(3)]
        waiting.append(await lab.perform(worker, "scheduled", delay=0.1))
        waiting.append(retried)  # it is between two attempts
        report = await lab.stop(worker)
    if lab.is_shared:
        lab.equal("what the report has as lost", [], list(report.lost))
        lab.check("contains", what="the returned", part=running, actual=" ".join(report.returned))
        # Others may have been fetched ahead: these, and no stranger.
        others = {*report.returned} - {running, *waiting}
        lab.equal("what else the report has as returned", [], sorted(others))
        # The rest is safe in the backend: all of it.
        lab.stage.open("g")
        await worker.start()
        await lab.until_ended(9)
        lab.check("attempts", tag="running", expected=[1, 1])
        lab.check("attempts", tag="retried", expected=[1, 2])
        lab.check("each_ran")
    else:
        told = sorted(report.lost)
        lab.equal("what the report has as lost", sorted([running, *waiting]), told)
        for job_id in report.lost:
            lab.check("contains", what="the warnings", part=job_id, actual="\n".join(lines))


async def test_LIFE_13_nor_one_that_waits_for_the_first_start(lab: Lab) -> None:
    worker = lab.worker()
    waiting = [await lab.perform(worker, "early")]
    waiting.append(await lab.perform(worker, "early", delay=0.05))
    report = await lab.stop(worker)
    lost = [] if lab.is_shared else sorted(waiting)
    lab.equal("what the report has as lost", lost, sorted(report.lost))
    await worker.start()
    await lab.until_ended(2)
    lab.check("each_once")
