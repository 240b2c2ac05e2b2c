"""DUR-10: what an earlier release has left."""

from __future__ import annotations

import secrets
import time

import msgspec
import pytest

from offload import Worker
from offload_conformance.golden_states import GoldenState
from offload_conformance.lab import Lab
from offload_conformance.stage import DEADLINE

pytestmark = pytest.mark.asyncio

WAITED_MS = 60_000
"""What is due later than this isn't waited for."""
SLACK_MS = 50
"""How much earlier a clock may say that it is, as TIME-1 allows."""


async def test_DUR_10_what_releases_have_left_is_taken_over(lab: Lab) -> None:
    """Before this release comes; and, where its author says so, while both are there."""
    states = lab.need_states()
    cases = [
        (state, is_beside)
        for state in states
        for is_beside in (False, True)
        if not is_beside or state.release in lab.states.beside
    ]
    for number, (state, is_beside) in enumerate(cases):
        await take_over(lab, state, is_beside, number)


async def take_over(lab: Lab, state: GoldenState, is_beside: bool, number: int) -> None:
    """Let workers of this release find what another has left in a namespace of its own."""
    namespace = f"kit-{secrets.token_hex(6)}"
    worker = lab.worker(namespace=namespace, queues="default,other")
    workers = [worker]
    if is_beside:  # in one of the queues: none could die in the other while it is consumed
        workers.append(lab.worker(namespace=namespace, queues="other"))
        await workers[-1].start()
    await lay(lab, state, namespace, number, workers)
    await worker.start()
    await lab.perform(worker, "new")
    await lab.perform(worker, "new, later", delay=0.2)
    await lab.perform(worker, "new, dead", do={"*": [["reject", "no"]]})
    due = [job for job in state.manifest.jobs if job.due_in_ms <= WAITED_MS]
    await lab.stage.until(
        f"the {len(due)} jobs that {state.release} has left to run",
        lambda: {job.id for job in due} <= ended_on(lab, workers),
        lab.recovery + max(job.due_in_ms for job in due) / 1000 + DEADLINE,
    )
    requeued = await take_over_dead(lab, state, workers)
    for tag in ("new", "new, later", "new, dead"):
        await lab.until_ended(number + 1, tag)
        lab.check("each_once", tag=tag)
    await lab.fence(worker)
    await lab.fence(worker, "other")
    for each in workers:
        await lab.caught_up(each)
    await check_scheduled(lab, state, worker)
    lab.check("taken_over", laid=number, requeued=requeued)


async def lay(
    lab: Lab, state: GoldenState, namespace: str, number: int, workers: list[Worker]
) -> None:
    """Lay a state into a namespace, for its workers; the record has what must be found in it."""
    now_ms = time.time_ns() / 1e6
    await lab.states.lay(namespace=namespace, state=state.at(namespace, now_ms))
    lab.history.add(
        "laid",
        number=number,
        release=state.release,
        workers=[lab.troupe(worker).name for worker in workers],
        ids=[each.id for each in state.manifest.all],
        laid_ms=now_ms,
        within_ms=WAITED_MS,
        slack_ms=SLACK_MS,
        **msgspec.to_builtins(state.manifest),
    )


def ended_on(lab: Lab, workers: list[Worker]) -> set[str]:
    """The jobs that have ended on these: those of another namespace have some of the same ids."""
    names = [lab.troupe(worker).name for worker in workers]
    return {end.what["id"] for end in lab.history.named("ended") if end.what["worker"] in names}


async def take_over_dead(lab: Lab, state: GoldenState, workers: list[Worker]) -> list[str]:
    """The dead letters are listed beside the new one, requeued and discarded; the requeued ids."""
    if not state.manifest.dead:
        return []
    worker = workers[0]
    letters = await lab.until_dead(worker, len(state.manifest.dead) + 1)
    lab.equal(
        "the dead letters that were left",
        [[e.id, e.handler, e.queue, e.attempts, e.error, e.args] for e in state.manifest.dead],
        [[e.id, e.handler, e.queue, e.attempts, e.error, e.args] for e in letters[:-1]],
    )
    first, second, *others = (each.id for each in letters)
    requeued = list(await worker.dead_letters.requeue([first]))
    lab.equal("what is requeued", [first], requeued)
    lab.equal("what is discarded", [second], list(await worker.dead_letters.discard([second])))
    await lab.stage.until("the requeued job to run", lambda: first in ended_on(lab, workers))
    left = [each.id for each in await worker.dead_letters.list()]
    # Its run may fail again, and then it is the last of them.
    lab.equal("what is left of them", others, [each for each in left if each != first])
    await worker.dead_letters.discard(left)  # a next one has some of the same ids
    return requeued


async def check_scheduled(lab: Lab, state: GoldenState, worker: Worker) -> None:
    """What is due much later is there still, where that can be counted."""
    counts = (await worker.counts()).get("default")
    if counts is None or counts.scheduled is None:
        return
    far = [job for job in state.manifest.jobs if job.due_in_ms > WAITED_MS]
    lab.equal("what is scheduled", len(far), counts.scheduled)
