"""PERF-8: performing while the backend is unavailable, or the way to it is cut."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from offload import BackendUnavailableError, Worker
from offload_conformance.lab import Lab
from offload_conformance.proxy import FaultProxy
from offload_conformance.stage import DEADLINE

pytestmark = pytest.mark.asyncio

MARGIN = 0.5
"""Seconds that a busy host may add."""
AT_ONCE = 21
"""Calls in flight, each of which must raise in time: one may not wait for the others."""
BATCH = 300
LONGEST = 60.0
"""Seconds after which a call is taken for one that hangs."""


async def test_PERF_8_it_never_hangs(lab: Lab) -> None:
    server = lab.need_server()
    worker = lab.worker()
    await lab.perform(worker, "before")
    await server.kill()
    lab.history.add("backend_killed")
    await raises_in_time(lab, worker, "away")
    await asyncio.gather(*(raises_in_time(lab, worker, f"away {n}", n) for n in range(AT_ONCE)))
    await raises_in_time(lab, worker, "still away")
    await server.start()
    await worker.start()
    await lab.fence(worker)
    if lab.claims.durable:
        lab.check("each_ran", tag="before")
    lab.check("stored_as_told")


@pytest.mark.slow
async def test_PERF_8_nor_when_nothing_answers(lab: Lab) -> None:
    """A half-open connection, and new ones that are accepted and then silent."""
    async with performer_on_a_wire(lab) as (proxy, performer, worker):
        proxy.swallow()
        calls = [raises_in_time(lab, performer, f"silent {n}", n) for n in range(AT_ONCE)]
        await asyncio.gather(*calls)
        await raises_in_time(lab, performer, "still silent")
        await proxy.heal()
        await until_it_performs(lab, performer, 1)
        await lab.fence(worker)
    lab.check("stored_as_told")


async def raises_in_time(lab: Lab, worker: Worker, tag: str, number: int = 0) -> None:
    """Perform what can't be stored now, by its number in one of three ways; it must raise."""
    ways = (
        lambda: lab.perform(worker, tag),
        lambda: lab.perform(worker, tag, delay=0.01),
        lambda: lab.perform_many(worker, tag, BATCH),
    )
    try:
        said = await told(lab, tag, ways[number % len(ways)]())
    except Exception as error:
        lab.equal(f"perform {tag}", "BackendUnavailableError", type(error).__name__)
        raise
    lab.equal("the type of maybe_stored", "bool", type(said).__name__)


async def told(lab: Lab, tag: str, call: Any) -> bool | None:
    """What a call that raised said of `maybe_stored`; None if it returned.

    Whatever hindered it, it must raise within the time that the adapter states.
    """
    began = asyncio.get_running_loop().time()
    try:
        await asyncio.wait_for(call, LONGEST)
    except BackendUnavailableError as error:
        lab.history.add("told", tag=tag, maybe_stored=error.maybe_stored)
        took = asyncio.get_running_loop().time() - began
        what = "seconds until perform raised"
        lab.check("at_most", what=what, limit=lab.reconnect, actual=took, slack=MARGIN)
        return error.maybe_stored
    return None


async def until_it_performs(lab: Lab, worker: Worker, number: int) -> None:
    """Return when a way that was cut is open again."""

    async def performs() -> bool:
        return await told(lab, f"again {number}", lab.perform(worker, f"again {number}")) is None

    await lab.until("it to perform again", performs, 2 * DEADLINE)


POOL = 12
"""How many connections a performer may have that are cut, and so how often it may not know."""


@pytest.mark.slow
async def test_PERF_8_where_nothing_was_sent_nothing_is_stored(lab: Lab) -> None:
    server = lab.need_server()
    async with FaultProxy(lab.history, *server.address) as proxy:
        connected, performer = lab.worker(through=proxy), lab.worker(through=proxy)
        await lab.perform(connected, "before")
        proxy.refuse()
        for tag, call in (
            ("one", lab.perform(performer, "one")),
            ("later", lab.perform(performer, "later", delay=0.01)),
            ("many", lab.perform_many(performer, "many", 20)),
        ):
            said = await told(lab, tag, call)
            lab.equal(f"what the call of {tag} said of maybe_stored", expected=False, actual=said)
        # One that was connected may send to a wire that is cut; but not again and again.
        says = [
            await told(lab, f"cut {number}", lab.perform(connected, f"cut {number}"))
            for number in range(POOL)
        ]
        lab.equal("what it said of maybe_stored in the end", expected=False, actual=says[-1])
        await proxy.heal()
        await until_it_performs(lab, performer, 0)
        await performer.start()
        await lab.fence(performer)
        for worker in (connected, performer):
            await worker.stop()  # while there is a way to its backend
        lab.check("stored_as_told")


ANSWERS = 12
"""How many answers of a backend a perform may wait for, at most."""


@asynccontextmanager
async def performer_on_a_wire(lab: Lab) -> AsyncIterator[tuple[FaultProxy, Worker, Worker]]:
    """A wire that a test can cut, who performs over it, and a worker with a wire of its own."""
    server = lab.need_server()
    worker = lab.worker()
    await worker.start()
    async with FaultProxy(lab.history, *server.address) as proxy:
        performer = lab.worker(through=proxy, puppets=False)
        await until_it_performs(lab, performer, 0)
        yield proxy, performer, worker
        await performer.stop()  # while there is a way to its backend


@pytest.mark.slow
async def test_PERF_8_a_lost_answer_may_hide_a_stored_job(lab: Lab) -> None:
    """The request arrives, and its answer doesn't; a perform may consist of several of them."""
    async with performer_on_a_wire(lab) as (proxy, performer, worker):
        lab.history.add("fault", kind="lost answer")
        for number in range(ANSWERS):
            tag = f"lost {number}"
            proxy.lose_answers(after=number)
            said = await told(lab, tag, lab.perform(performer, tag))
            await proxy.heal()
            await until_it_performs(lab, performer, number + 1)
            await lab.fence(worker)
            if said is not None and lab.runs(tag):
                proxy.struck("lost answer", 1)
                break
    lab.check("stored_as_told")


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 400, 2000, 6000])
async def test_PERF_8_cut_amid_many(lab: Lab, count: int) -> None:
    """A batch that raises without `maybe_stored` has stored none."""
    async with performer_on_a_wire(lab) as (proxy, performer, worker):
        proxy.cut_and_refuse_after_bytes(count)
        await told(lab, "many", lab.perform_many(performer, "many", 100))
        await proxy.heal()
        await until_it_performs(lab, performer, 1)
        await lab.fence(worker)
    lab.check("stored_as_told")
    lab.check("each_accepted_ran")
