"""TIME: never early, hardly late, whatever dies on the way and whatever a clock says."""

from __future__ import annotations

import asyncio
import itertools
import time
from datetime import UTC, datetime, timedelta

import pytest
from support import DEADLINE, Log

from offload import Job, constant

# What is timed, and what keeps the broker busy, don't run at the same time.
pytestmark = pytest.mark.xdist_group("busy-broker")

LATENESS = 0.9
"""What a busy machine may add is in it, but not a level of the ladder too many: that is a second.
How late jobs really are is measured by the benchmarks.
"""
TOLERANCE = 0.03
"""By so much a worker may be early if a clock is wrong."""
FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"


async def test_time_1_delays_of_all_kinds(make, recorder, drained):
    """Held by the worker alone, and after one, two and three levels; none waits for a longer."""
    worker, performer = make(), make()
    worker.register("note", recorder.note)
    await worker.start()
    asked = {}
    long = await performer.perform_in(Job("note"), 3600)
    for delay in (5.2, 3.0, 2.5, 2.0, 1.9, 0.05, 0.001):
        before = time.time()
        asked[await performer.perform_in(Job("note"), delay)] = (before, time.time(), delay)
    await recorder.until_started(7)
    for job_id, (before, after, delay) in asked.items():
        assert before + delay <= recorder.started_at[job_id] <= after + delay + LATENESS
    assert long not in recorder.started_at
    assert {job.attempt for job in recorder.started} == {1}
    await drained(worker)


async def test_time_1_instants(make, recorder):
    worker = make()
    worker.register("note", recorder.note)
    await worker.start()
    due = {}
    for delay in (0.3, 1.2, 2.4):
        at = datetime.now(UTC) + timedelta(seconds=delay)
        due[await worker.perform_at(Job("note"), at)] = at.timestamp()
    past = await worker.perform_at(Job("note"), datetime.now(UTC) - timedelta(days=1))
    await recorder.until(lambda: past in recorder.started_at)
    await recorder.until_started(4)
    for job_id, at in due.items():
        assert at <= recorder.started_at[job_id] <= at + LATENESS


async def test_fail_1_a_retry_takes_the_same_level_twice(make, recorder, drained):
    """RabbitMQ drops what it takes for a cycle."""
    worker = make()
    log = Log()
    worker.observe(log)
    at = []
    worker.register("fail", recorder.failing(2), backoff=constant(timedelta(seconds=2.1)))
    await worker.start()
    await worker.perform(Job("fail"))
    for run in range(1, 4):
        await recorder.until_started(run)
        at.append(time.time())
    assert [job.attempt for job in recorder.started] == [1, 2, 3]
    assert all(later - sooner >= 2.09 for sooner, later in itertools.pairwise(at))
    await log.until("job_succeeded")
    await drained(worker)


async def test_dur_1_what_a_killed_worker_held_is_no_run(
    make, process, stranger, recorder, drained
):
    """It had not begun."""
    survivor = make()
    survivor.register("note", recorder.note)
    async with process() as victim:
        asked = time.time()
        job_id = await survivor.perform_in(Job("note"), 1.9)
        await stranger.until("soon.default", ready=0)
        await victim.kill()
    await survivor.start()
    await recorder.until_started(1)
    assert [(job.id, job.attempt) for job in recorder.started] == [(job_id, 1)]
    assert recorder.started_at[job_id] - asked >= 1.9 - TOLERANCE
    await drained(survivor)


async def test_stop_gives_back_what_it_holds(make, stranger, recorder):
    worker, other = make(), make()
    for each in (worker, other):
        each.register("note", recorder.note)
    await worker.start()
    asked = time.time()
    ids = [await worker.perform_in(Job("note"), 1.5) for _ in range(20)]
    await stranger.until("soon.default", ready=0)
    report = await worker.stop()
    assert not report.returned
    await stranger.until("soon.default", ready=20, consumers=0)
    await other.start()
    await recorder.until_started(20)
    assert sorted(job.id for job in recorder.started) == sorted(ids)
    assert {job.attempt for job in recorder.started} == {1}
    assert min(recorder.started_at.values()) - asked >= 1.5 - TOLERANCE


@pytest.mark.parametrize("offset", ["+1h", "-1h"])
async def test_time_1_a_worker_whose_clock_is_wrong(make, process, offset):
    performer = make()
    environment = {
        "LD_PRELOAD": FAKETIME,
        "FAKETIME": offset,
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    async with process(environment=environment) as worker:
        for number, delay in enumerate((0.3, 2.2), 1):
            before = time.time()
            await performer.perform_in(Job("note"), delay)
            after = time.time()
            started = await worker.until("started", number)
            now = time.time()
            assert abs(started[-1]["at"] - now) > 3000, "its clock isn't wrong"
            assert before + delay - TOLERANCE <= now <= after + delay + LATENESS


async def test_many_that_are_due_at_once(make, recorder, drained):
    """More than a worker holds at a time."""
    worker, performer = make(), make()
    worker.register("note", recorder.note)
    await worker.start()
    at = datetime.now(UTC) + timedelta(seconds=1.8)
    ids = []
    async with asyncio.timeout(DEADLINE):
        ids = await asyncio.gather(
            *(performer.perform_at(Job("note"), at) for _ in range(1500)),
        )
    await recorder.until_started(1500)
    assert sorted(ids) == sorted(job.id for job in recorder.started)
    assert min(recorder.started_at.values()) >= at.timestamp()
    await drained(worker)


async def test_a_near_one_is_not_held_up_by_many_that_are_due_a_little_later(make, recorder):
    worker, performer = make(concurrency=10), make()
    worker.register("note", recorder.note)
    await worker.start()
    many = await asyncio.gather(*(performer.perform_in(Job("note"), 1.95) for _ in range(1300)))
    asked = time.time()
    near = await performer.perform_in(Job("note"), 0.2)
    await recorder.until(lambda: near in recorder.started_at)
    assert recorder.started_at[near] - asked <= 0.2 + LATENESS
    await recorder.until_started(1301)
    assert {job.id for job in recorder.started} == {near, *many}


async def test_conc_1_more_slots_than_any_prefetch(make, recorder, drained):
    worker = make(concurrency=1500)
    worker.register("hold", recorder.hold)
    await worker.start()
    await worker.perform_many([Job("hold")] * 1600)
    await recorder.until_started(1500)
    assert not recorder.ended
    recorder.gate.set()
    await recorder.until(lambda: len(recorder.ended) == 1600)
    await drained(worker)
