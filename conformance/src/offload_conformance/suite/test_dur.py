"""DUR: faults lose nothing."""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack
from typing import Any

import pytest

from offload import BackendUnavailableError, Worker
from offload_conformance.authors import Server
from offload_conformance.checks import CHECKS
from offload_conformance.checks.runs import unended_ids
from offload_conformance.lab import Lab
from offload_conformance.processes import WorkerProcess
from offload_conformance.proxy import FaultProxy
from offload_conformance.suite.test_dur_leases import (
    hold_leases_after,
    settle_amid_a_second_run_of_its_own,
)
from offload_conformance.suite.test_wake import OUTAGE

pytestmark = pytest.mark.asyncio

PATIENCE = 15.0
"""Seconds, beyond what is claimed, after which what had to happen has not."""
DYING = 5
"""Jobs that have just died when their worker is killed, one after the other."""
SLOTS = 25
"""Jobs that a worker runs at once, if nobody says how many."""
LAST = 20
"""Jobs that were accepted just before their backend is killed, one after the other."""


KILLED_AFTER = (1, 2, 3, 5, 8, 13, 21, 34)
"""Runs after which a worker is killed, one after the other."""
MANY = 300
"""Jobs, so that the last of these workers still has plenty."""


async def until_run(lab: Lab, tag: str, count: int, seconds: float) -> None:
    """Return when so many runs of a tag have begun, which may take as long as is claimed."""
    what = f"{count} runs of {tag} to start"
    await lab.stage.until(what, lambda: lab.runs(tag) >= count, seconds + PATIENCE)


async def until_all_ran(lab: Lab, seconds: float) -> None:
    """Return when every accepted job has begun, in whatever order."""
    all_ran = lambda: not list(CHECKS["each_accepted_ran"](lab.history.events))  # noqa: E731
    await lab.stage.until("every accepted job to start", all_ran, seconds + PATIENCE)


def accepted(lab: Lab, tag: str) -> bool:
    """Whether a job with this tag was accepted."""
    return any(event.what["tag"] == tag for event in lab.history.named("accepted"))


async def leave(lab: Lab, worker: Worker) -> None:
    """Stop a worker that has only performed, unless others may use the backend meanwhile."""
    if not lab.claims.distributed:
        await worker.stop()


async def test_DUR_1_a_kill_loses_nothing(lab: Lab) -> None:
    performer = lab.worker(queues="default,other")
    rejected = {"*": [["reject", "boom"]]}
    dead = await lab.perform(performer, "dead", do=rejected)
    # When the kill comes, some of these are dead letters and some still jobs; none may be neither.
    # As many fail beside them, and are between two attempts.
    dying: list[str] = []
    for number in range(1, DYING + 1):
        last: list[list[Any]] = [["gate", f"dies {number}"], ["reject", "boom"]]
        dying.append(await lab.perform(performer, "dying", do={"*": last}))
        first: list[list[Any]] = [["gate", f"dies {number}"], ["retry", 0.3]]
        await lab.perform(performer, "failing", do={"1": first})
    await lab.perform(performer, "retrying", do={"1": [["retry", 1.5]]})
    accepts = ["perform_in", "of the killed", 1.5]
    await lab.perform(performer, "running", do={"1": [accepts, ["gate", "hold"]]})
    # The one that will be killed doesn't consume the other queue: there they wait.
    await lab.perform(performer, "waiting", queue="other")
    await lab.perform(performer, "scheduled", queue="other", delay=0.8)
    await leave(lab, performer)
    async with lab.process() as victim:
        await lab.until_ended(1, "dead")
        await lab.until_ended(1, "retrying")
        await lab.stage.until("it to perform", lambda: accepted(lab, "of the killed"))
        if lab.claims.distributed:  # a verdict reached so long ago has been carried out
            await lab.until_dead(performer, 1)
            for _ in range(3):
                await lab.fence(performer)
        await lab.until_started(DYING, "dying")
        await lab.until_started(DYING, "failing")
        for number in range(1, DYING + 1):
            lab.stage.open(f"dies {number}")
            await lab.until_ended(number, "dying")
            await lab.until_ended(number, "failing")
            if lab.claims.distributed and number < DYING:  # the earlier ones get some time
                await lab.fence(performer)
        await victim.kill()
    worker = lab.worker(queues="default,other")
    await worker.start()
    await until_run(lab, "running", 2, lab.recovery)
    for tag in ("waiting", "scheduled", "of the killed"):
        await lab.until_ended(1, tag)
    await lab.until_ended(2, "retrying")
    again = lambda: len(ran_again(lab, "failing")) == DYING  # noqa: E731
    await lab.stage.until("each that failed to run again", again, lab.recovery + PATIENCE)
    letters = await lab.until_dead(worker, 1 + DYING, lab.recovery + PATIENCE)
    lab.check("each_ran")
    lab.check("never_early")
    lab.check("attempts", tag="waiting", expected=[1])
    lab.check("attempts", tag="scheduled", expected=[1])
    lab.check("attempts", tag="of the killed", expected=[1])
    lab.check("attempts", tag="retrying", expected=[1, 2])
    if lab.claims.dead_letters:
        # One that died just now may have been told twice, and so be there twice.
        found = sorted({letter.id for letter in letters})
        lab.equal("the dead letters", sorted([dead, *dying]), found)


def ran_again(lab: Lab, tag: str) -> set[str]:
    """The ids of the jobs with this tag whose second attempt has begun, or a later one."""
    runs = (event.what for event in lab.history.named("started"))
    return {run["id"] for run in runs if run["tag"] == tag and run["attempt"] > 1}


@pytest.mark.slow
async def test_DUR_1_killed_again_and_again_at_any_instant(lab: Lab) -> None:
    """Also between taking a job and its handler, and amid its verdict."""
    options = {"max_attempts": 50, "concurrency": 4, **lab.lease[0]}
    for runs in KILLED_AFTER:
        performer = lab.worker(**options)
        left = len(unended_ids(lab.history.events))
        await lab.perform_many(performer, "many", MANY - left, do={"*": [["work", 0.01]]})
        await leave(lab, performer)
        async with lab.process(**options) as victim:
            await until_more_runs(lab, runs)
            await victim.kill(between_jobs=True)
    if lab.limits.reconnect is not None:
        await kill_before_what_it_took_arrives(lab, **options)
    async with lab.process(**options):
        await until_all_ran(lab, lab.recovery)
    lab.check("each_ran")


async def kill_before_what_it_took_arrives(lab: Lab, **options: Any) -> None:
    """Kill a worker while the backend has given it jobs of which it doesn't know."""
    async with (
        FaultProxy(lab.history, *lab.need_server().address) as proxy,
        lab.process(through=proxy, **options) as victim,
    ):
        await until_more_runs(lab, KILLED_AFTER[-1])
        proxy.mute()
        is_lost = lambda: any(hit.what["kind"] == "mute" for hit in lab.history.named("fault_hit"))  # noqa: E731
        await lab.stage.until("an answer to be lost", is_lost)
        await victim.kill(between_jobs=True)


async def until_more_runs(lab: Lab, count: int) -> None:
    """Wait until `count` more runs have started."""
    enough = lab.runs() + count
    await lab.stage.until(f"{count} more runs to start", lambda: lab.runs() >= enough)


async def test_DUR_2_killed_inside_a_handler_it_runs_again(lab: Lab) -> None:
    lab.equal("whether recovery is stated", expected=True, actual=lab.limits.recovery is not None)
    performer = lab.worker(queues="default,own")
    await lab.perform(performer, "cut", do={"1": [["gate", "hold"]]})
    await leave(lab, performer)
    async with lab.process() as victim:
        await lab.until_started(1, "cut")
        if lab.claims.distributed:  # one that is at work takes over; else one that starts
            await performer.start()
            await lab.fence(performer, "own")
        await victim.kill()
    worker = performer if lab.claims.distributed else lab.worker()
    if worker is not performer:
        await worker.start()
    await until_run(lab, "cut", 2, lab.recovery)
    await lab.fence(worker)
    lab.check("attempts", tag="cut", expected=[1, 2])
    lab.check("recovered_within", tag="cut", limit_s=lab.recovery)


async def strike(lab: Lab, server: Server) -> float:
    """Kill the backend while `running` is at its gate, and start it again; when it was back."""
    lab.history.add("fault", kind="server kill")
    await server.kill()
    lab.history.add("fault_hit", kind="server kill", running=["running"])
    lab.stage.open("hold")
    await asyncio.sleep(OUTAGE)
    await server.start()
    return asyncio.get_running_loop().time()


@pytest.mark.slow
async def test_DUR_3_a_kill_of_the_backend_loses_nothing(lab: Lab) -> None:
    server = lab.need_server()
    worker = lab.worker()
    await worker.start()
    do = {"1": [["gate", "hold"]]}
    await lab.perform(worker, "running", do=do)
    await lab.perform(worker, "scheduled", delay=1)
    await lab.perform(worker, "retrying", do={"1": [["retry", 1]]})
    dead = await lab.perform(worker, "dead", do={"*": [["reject", "boom"]]})
    await lab.until_started(1, "running")
    await lab.until_dead(worker, 1)
    # A backend that writes a moment after its answer loses the last ones. None of them runs before.
    for _ in range(LAST):
        await lab.perform(worker, "last", delay=1)
    back = await strike(lab, server)
    reconnect = lab.reconnect
    again = lambda: performs(lab, worker, "after")  # noqa: E731
    await lab.until("the worker to perform again", again, reconnect + PATIENCE)
    await until_run(lab, "after", 1, reconnect)
    waited = asyncio.get_running_loop().time() - back
    lab.check("at_most", what="seconds until it worked again", limit=reconnect, actual=waited)
    await until_run(lab, "retrying", 2, lab.recovery)
    await until_all_ran(lab, lab.recovery)
    letters = await lab.until_dead(worker, 1)
    lab.check("each_accepted_ran")
    if lab.claims.dead_letters:
        lab.equal("the dead letters", [dead], [letter.id for letter in letters])


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 40, 200, 1000])
async def test_DUR_4_cut_while_performing(lab: Lab, count: int) -> None:
    server = lab.need_server()
    async with FaultProxy(lab.history, *server.address) as proxy:
        performer = lab.worker(through=proxy)
        await lab.perform(performer, "before")
        proxy.cut_after_bytes(count)
        performs_all = (performs(lab, performer, "cut") for _ in range(20))
        answers = await asyncio.gather(*performs_all)
        lab.history.add("answered", returned=sum(answers))
        await proxy.heal()
        await lab.until("it to perform again", lambda: performs(lab, performer, "after"))
        worker = lab.worker()
        await worker.start()
        await until_all_ran(lab, lab.reconnect)
        await performer.stop()  # while there is a way to its backend
        # What raised may have been stored all the same; what returned must have been.
        lab.check("each_accepted_ran")


@pytest.mark.slow
async def test_DUR_5_a_half_open_connection_is_noticed(lab: Lab) -> None:
    server = lab.need_server()
    reconnect = lab.reconnect
    async with FaultProxy(lab.history, *server.address) as proxy:
        worker, performer = lab.worker(through=proxy), lab.worker()
        await worker.start()
        await lab.perform(performer, "before")
        await lab.until_ended(1, "before")
        proxy.half_open()
        await lab.perform(performer, "after")
        began = asyncio.get_running_loop().time()
        await until_run(lab, "after", 1, reconnect)
        waited = asyncio.get_running_loop().time() - began
        await lab.until_ended(1, "after")
        await worker.stop()  # while there is a way to its backend
        lab.check("at_most", what="seconds until noticed", limit=reconnect, actual=waited)
        lab.check("each_ran")


async def performs(lab: Lab, worker: Worker, tag: str) -> bool:
    """Whether a perform works just now."""
    try:
        await lab.perform(worker, tag)
    except BackendUnavailableError:
        return False
    return True


async def test_DUR_6_a_job_that_kills_its_process_ends(lab: Lab) -> None:
    performer = lab.worker(max_attempts=2)
    job_id = await lab.perform(performer, "killer", do={"*": [["kill"]]})
    await leave(lab, performer)
    for attempt in (1, 2):
        async with lab.process(max_attempts=2) as victim:
            await until_run(lab, "killer", attempt, lab.recovery)
            lab.equal("how its process ended", -signal.SIGKILL.value, await victim.wait())
    worker = lab.worker(max_attempts=2)
    await worker.start()
    if lab.claims.dead_letters:
        (letter,) = await lab.until_dead(worker, 1, lab.recovery + PATIENCE)
        lab.equal("the dead letter", [job_id, 2], [letter.id, letter.attempts])
        lab.equal("whether it says why", expected=True, actual=bool(letter.error))
        await lab.check_dead([letter], 2)
    else:
        await lab.perform(worker, "past recovery", delay=lab.recovery)
        await until_run(lab, "past recovery", 1, lab.recovery)
    await lab.fence(worker)
    lab.check("attempts", tag="killer", expected=[1, 2])


@pytest.mark.slow
async def test_DUR_7_a_handler_may_take_longer_than_the_lease(lab: Lab) -> None:
    options, lease = lab.lease
    # As long as it would take another worker to find that the lease has ended.
    enough = lease + min(lab.recovery, 2.5 * lease)
    if not lab.claims.distributed:
        worker = lab.worker(**options)
        await worker.start()
        await lab.perform_many(worker, "waits", SLOTS - 1, do={"*": [["gate", "waits"]]})
        await lab.perform(worker, "enough", delay=enough)
        await until_run(lab, "enough", 1, enough)
        lab.stage.open("waits")
        await lab.until_ended(SLOTS - 1, "waits")
        await lab.fence(worker)
    else:
        await longer_than_the_lease_beside_another(lab, options, enough)
        lab.check("lasted", tag="blocks", least_s=lease)
    lab.check("lasted", tag="waits", least_s=lease)
    lab.check("each_once")
    if lab.claims.distributed and lab.limits.reconnect is not None:
        await asyncio.gather(*(hold_leases_after(lab, fault) for fault in ("reset", "half_open")))


async def longer_than_the_lease_beside_another(
    lab: Lab, options: dict[str, Any], enough: float
) -> None:
    """Two busy processes, one of which even blocks its event loop, and one that would take over."""
    other = lab.worker(queues="waits,blocks,fence", **options)
    await lab.perform_many(other, "waits", SLOTS, queue="waits", do={"*": [["gate", "waits"]]})
    await lab.perform(other, "blocks", queue="blocks", do={"*": [["block", enough]]})
    async with lab.process(queues="waits", **options), lab.process(queues="blocks", **options):
        await lab.until_started(SLOTS, "waits")
        await lab.until_started(1, "blocks")
        await other.start()
        await lab.perform(other, "enough", queue="fence", delay=enough)
        await until_run(lab, "enough", 1, enough)
        await until_ended(lab, "blocks", enough)
        lab.stage.open("waits")
        await lab.until_ended(SLOTS, "waits")
        await lab.fence(other, "fence")


async def until_ended(lab: Lab, tag: str, longest: float) -> None:
    """Return when a job has ended that takes this long."""
    await lab.stage.until(f"{tag} to end", lambda: lab.ends(tag) > 0, longest + PATIENCE)


@pytest.mark.slow
async def test_DUR_8_frozen_past_its_lease_it_settles_nothing(lab: Lab) -> None:
    """Whatever its verdict is."""
    lab.need("distributed")
    options, lease = lab.lease
    verdicts: dict[str, list[list[Any]]] = {
        "retries": [["retry", 0.05]],
        "rejects": [["reject", "no"]],
        "returns": [],
        "stays": [["gate", "it looked after its leases"]],
    }
    taken: list[list[Any]] = [["gate", "taken"], ["retry", 0.05]]
    other = lab.worker(queues=",".join(("default", *verdicts)), **options)
    async with AsyncExitStack() as stack:
        frozen: list[WorkerProcess] = []
        for tag, verdict in verdicts.items():
            process = lab.process(queues=f"{tag},own-{tag}", **options)
            frozen.append(await stack.enter_async_context(process))
            # It blocks, so that on waking its run ends before anything can be told to it.
            do = {"1": [["block", 1.5], *verdict], "2": taken, "3": []}
            await lab.perform(other, tag, do=do, queue=tag)
            await lab.until_started(1, tag)
            process.freeze()
        await other.start()
        for tag in verdicts:
            await until_run(lab, tag, 2, lease + lab.recovery)
        for process in frozen:
            process.thaw()
        for tag in verdicts:
            if tag == "stays":
                lab.stage.open("it looked after its leases")
            await until_ended(lab, tag, 1.5)
            # These are behind whatever it settled.
            for number in range(1, 4):
                await lab.perform(other, f"own {tag}", queue=f"own-{tag}")
                await lab.until_ended(number, f"own {tag}")
        await lab.perform(other, "past its retry", delay=0.5)
        await lab.until_ended(1, "past its retry")
        for tag in verdicts:
            lab.check("attempts", tag=tag, expected=[1, 2])
        if lab.claims.dead_letters:
            dead = [letter.id for letter in await other.dead_letters.list()]
            lab.equal("the dead letters", [], dead)
        # Had it settled a job, there would be nothing left to retry.
        lab.stage.open("taken")
        await lab.perform(other, "past the retry", delay=0.5)
        await lab.until_ended(1, "past the retry")
        for tag in verdicts:
            lab.check("attempts", tag=tag, expected=[1, 2, 3])
    await settle_amid_a_second_run_of_its_own(lab)
