"""DUR: leases, when the connection fails and the worker lives."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from offload import UnsupportedError, Worker
from offload_conformance.lab import Lab
from offload_conformance.proxy import FaultProxy
from offload_conformance.stage import DEADLINE

pytestmark = pytest.mark.asyncio


@pytest.mark.slow
async def test_DUR_5_what_an_unheard_answer_took_runs_while_its_worker_lives(lab: Lab) -> None:
    """The backend has given it jobs of which it doesn't know, and it holds others."""
    server = lab.need_server()
    async with FaultProxy(lab.history, *server.address) as proxy:
        options, _ = lab.lease
        worker, performer = lab.worker(through=proxy, **options), lab.worker(**options)
        await worker.start()
        await lab.perform(performer, "held", do={"*": [["gate", "held"]]})
        await lab.until_started(1, "held")
        proxy.mute()
        for _ in range(3):
            await lab.perform(performer, "unheard")
        with contextlib.suppress(TimeoutError, UnsupportedError):
            async with asyncio.timeout(lab.reconnect):
                await until_taken(performer)
        await proxy.heal()
        await lab.stage.until(
            "what nobody heard of to run",
            lambda: lab.runs("unheard") >= 3,
            lab.reconnect + lab.recovery + DEADLINE,
        )
        lab.stage.open("held")
        await lab.until_ended(1, "held")
        await lab.until_ended(3, "unheard")
        await worker.stop()  # while there is a way to its backend
        lab.check("each_ran")


async def until_taken(looker: Worker) -> None:
    """Return when nothing waits any more."""
    while True:
        if not any(counts.waiting for counts in (await looker.counts()).values()):
            return
        await asyncio.sleep(0.05)


async def settle_amid_a_second_run_of_its_own(lab: Lab) -> None:
    """Cut a worker off for longer than its lease; it is alone to take its jobs again (DUR-8)."""
    if lab.limits.reconnect is None:
        return  # there is no connection to cut
    server = lab.need_server()
    options, lease = lab.lease
    tags = ("a", "b", "c")
    own = lab.worker(queues="own")
    await own.start()
    async with FaultProxy(lab.history, *server.address) as proxy:
        worker = lab.worker(through=proxy, queues="alone", **options)
        await worker.start()
        do: dict[str, list[list[Any]]] = {
            "1": [["gate", "first"]],
            "2": [["gate", "second"], ["retry", 0.05]],
            "3": [],
        }
        for tag in tags:
            await lab.perform(own, tag, do=do, queue="alone")
            await lab.until_started(1, tag)
        proxy.refuse()
        await past(lab, own, 1.5 * lease)
        await proxy.heal()
        await lab.perform(own, "after", queue="alone")
        back = lambda: lab.ends("after") > 0  # noqa: E731
        await lab.stage.until("it to be back", back, lab.reconnect + DEADLINE)
        await past(lab, own, lease)  # until it knows what it has lost
        lab.stage.open("first")
        await past(lab, own, 0.5)
        # Where its lease was still good, the first run was the only one.
        expected = {tag: [1] if lab.runs(tag) == 1 else [1, 2, 3] for tag in tags}
        lab.stage.open("second")
        await past(lab, own, 0.5)
        for tag in tags:
            lab.check("attempts", tag=tag, expected=expected[tag])
        await worker.stop()


async def hold_leases_after(lab: Lab, fault: str) -> None:
    """Let the connection fail; what extends the leases must come back, too (DUR-7)."""
    server = lab.need_server()
    options, lease = lab.lease
    own = lab.worker(queues="own")
    await own.start()
    async with FaultProxy(lab.history, *server.address) as proxy:
        worker = lab.worker(through=proxy, queues=fault, **options)
        await worker.start()
        held: dict[str, list[list[Any]]] = {"*": [["gate", f"before {fault}"]]}
        await lab.perform(own, f"before {fault}", do=held, queue=fault)
        await lab.until_started(1, f"before {fault}")
        await past(lab, own, lease, fault)  # it has been extended by then
        getattr(proxy, fault)()
        await past(lab, own, lab.reconnect, fault)
        lab.stage.open(f"before {fault}")
        held = {"*": [["gate", f"later {fault}"]]}
        await lab.perform(own, f"later {fault}", do=held, queue=fault)
        back = lambda: lab.runs(f"later {fault}") > 0  # noqa: E731
        await lab.stage.until("it to be back", back, lab.reconnect + DEADLINE)
        rival = lab.worker(queues=fault, **options)
        await rival.start()
        await past(lab, own, lease + min(lab.recovery, 2.5 * lease), fault)
        lab.stage.open(f"later {fault}")
        await lab.until_ended(1, f"later {fault}")
        await rival.stop()
        await worker.stop()  # while there is a way to its backend
        lab.check("attempts", tag=f"later {fault}", expected=[1])


async def past(lab: Lab, worker: Worker, seconds: float, fault: str = "") -> None:
    """Return when so much time has gone by for the backend, too."""
    tag = f"past {fault}"
    count = lab.ends(tag) + 1
    await lab.perform(worker, tag, queue="own", delay=seconds)
    ended = lambda: lab.ends(tag) >= count  # noqa: E731
    await lab.stage.until("a moment to pass", ended, seconds + DEADLINE)
