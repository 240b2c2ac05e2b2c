"""A job gets its runs: a lost connection charges what had begun, and nothing that only waited."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from datetime import timedelta

import pytest
from support import DEADLINE, Log

import offload
from offload import BackendUnavailableError, Job, constant

# What is timed, and what keeps the broker busy, don't run at the same time.
pytestmark = pytest.mark.xdist_group("busy-broker")

SOON = constant(timedelta(milliseconds=20))
PUBLISH = b"\x00\x3c\x00\x28"
ACKNOWLEDGE = b"\x00\x00\x00\x0d\x00\x3c\x00\x50"
BURIED = b"offload-died"
DELAYED = b"offload-hold"


async def cut(wire):
    """Cut what there is, and return when jobs are delivered again."""
    before = wire.deliveries
    assert wire.reset() >= 1
    async with asyncio.timeout(DEADLINE):
        while wire.deliveries == before:
            await asyncio.sleep(0.01)


async def test_what_waited_here_is_not_charged(make, wire, recorder, drained):
    """Two slots are taken, and the rest is prefetched, or on its way, each time it is cut."""
    worker, performer = make(wire.url, concurrency=2), make()
    worker.register("hold", recorder.hold)
    await worker.start()
    ids = await performer.perform_many([Job("hold")] * 12)
    await recorder.until_started(2)
    for _ in range(4):
        await cut(wire)
    recorder.gate.set()
    await recorder.until(lambda: set(recorder.ended) >= set(ids))
    first = [next(job for job in recorder.started if job.id == each) for each in ids]
    assert {job.attempt for job in first} == {1}
    last = await performer.perform(Job("hold"))
    await recorder.until(lambda: last in recorder.ended)
    await drained(worker)


async def test_a_run_that_was_cut_off_is_charged(make, wire, recorder, drained):
    worker, performer = make(wire.url, concurrency=2), make()
    worker.register("hold", recorder.hold)
    await worker.start()
    await performer.perform(Job("hold"))
    await recorder.until_started(1)
    await cut(wire)
    await recorder.until_started(2)
    assert [job.attempt for job in recorder.started] == [1, 2]
    recorder.gate.set()
    await recorder.until(lambda: len(recorder.ended) == 2)
    await drained(worker)


@pytest.mark.parametrize("token", [BURIED, DELAYED], ids=["dead letter", "retry"])
async def test_what_is_copied_and_not_acknowledged_is_not_copied_again(
    make, wire, recorder, drained, token
):
    worker, performer = make(wire.url), make()
    log = Log()
    worker.observe(log)
    attempts = 1 if token == BURIED else 2
    worker.register("fail", recorder.failing(9), max_attempts=attempts, backoff=SOON)
    worker.register("note", recorder.note)
    await worker.start()
    trap = wire.trap(ACKNOWLEDGE)
    job_id = await performer.perform(Job("fail"))
    await trap.until_struck()
    await log.until("job_dead")
    note = await performer.perform(Job("note"))
    await recorder.until(lambda: note in recorder.started_at)
    runs = [job.attempt for job in recorder.started if job.id == job_id]
    assert runs == list(range(1, attempts + 1))
    await drained(worker, dead=1)


async def test_what_succeeded_and_was_not_acknowledged_is_not_run_again(
    make, wire, recorder, drained
):
    worker, performer = make(wire.url, concurrency=1), make()
    worker.register("note", recorder.note)
    await worker.start()
    trap = wire.trap(ACKNOWLEDGE)
    ids = [await performer.perform(Job("note"))]
    await trap.until_struck()
    ids.append(await performer.perform(Job("note")))
    await recorder.until(lambda: ids[1] in recorder.started_at)
    assert [job.id for job in recorder.started] == ids
    await drained(worker)


@pytest.mark.parametrize("seed", range(3))
async def test_a_campaign_of_cuts_kills_no_job_early(make, wire, seed):
    """Each of two workers behind one wire; jobs that fail need all of their runs."""
    draw = random.Random(seed)
    workers = [make(wire.url, concurrency=3, lease="2s") for _ in range(2)]
    performer = make()
    runs: Counter[str] = Counter()

    async def fail(args):
        runs[offload.current_job().id] += 1
        await asyncio.sleep(draw.random() / 50)
        raise ValueError

    for worker in workers:
        worker.register("fail", fail, max_attempts=3, backoff=SOON)
        await worker.start()
    ids = set(await performer.perform_many([Job("fail")] * 150))

    async def strike():
        for _ in range(6):
            await asyncio.sleep(0.1 + draw.random() / 4)
            wire.reset()

    striking = asyncio.create_task(strike())
    letters: list = []
    async with asyncio.timeout(3 * DEADLINE):
        while not striking.done() or {each.id for each in letters} != ids:
            await asyncio.sleep(0.2)
            with contextlib.suppress(BackendUnavailableError):
                letters = await performer.dead_letters.list(limit=1000)
    early = {each.id: runs[each.id] for each in letters if runs[each.id] < 3}
    assert not early
    assert {each.attempts for each in letters} == {3}
