"""FAIL-8: whatever another program has published is one message's problem."""

from __future__ import annotations

import asyncio
import logging

import pytest
from amqp_poison import Poison, Poisoner, entry, nested, publish, publish_some, sized
from support import Log

from offload import Job

# What is timed, and what keeps the broker busy, don't run at the same time.
pytestmark = pytest.mark.xdist_group("busy-broker")


def envelope() -> bytes:
    return b'{"v":1,"id":"p","handler":"note","enqueued_ms":7,"args":{}}'


async def test_600_nested_tables_cost_no_other_job_anything(
    make, broker, space, recorder, drained, caplog
):
    """Not even when they come with jobs in flight, as long as they lie there."""
    caplog.set_level(logging.INFO, "offload")
    worker, performer = make(concurrency=4), make()
    log = Log()
    worker.observe(log)
    worker.register("hold", recorder.hold)
    worker.register("note", recorder.note)
    await worker.start()
    held = await performer.perform_many([Job("hold")] * 4)
    await recorder.until_started(4)
    deep = Poison(b"deep", nested(600), b"no envelope")
    await publish(broker.port, f"{space}.q.default", [deep])
    await publish(broker.port, f"{space}.soon.default", [deep])
    recorder.gate.set()
    after = await performer.perform_many([Job("note")] * 8)
    await recorder.until(lambda: set(recorder.ended) >= {*held, *after})
    assert {job.attempt for job in recorder.started} == {1}
    assert len(recorder.started) == 12
    await log.until("job_dead", 2)
    await drained(worker, dead=2)
    assert len(caplog.records) < 20
    assert all(len(record.getMessage()) < 1000 for record in caplog.records)


@pytest.mark.parametrize("seed", range(3))
async def test_poison_of_every_type_among_jobs(make, broker, space, recorder, drained, seed):
    worker, performer = make(concurrency=4, max_attempts=2), make()
    worker.register("note", recorder.note)
    await worker.start()
    poisoner = Poisoner(seed)
    drawn = [poisoner.one(number, envelope()) for number in range(60)]
    jobs: list[str] = []
    taken = 0
    for begin in range(0, 60, 10):
        jobs += await performer.perform_many([Job("note")] * 5)
        batch = drawn[begin : begin + 10]
        taken += await publish_some(broker.port, f"{space}.q.default", batch[:7])
        taken += await publish_some(broker.port, f"{space}.soon.default", batch[7:])
        jobs += [await performer.perform_in(Job("note"), 0.05)]
    await recorder.until(lambda: recorder.started_at.keys() >= set(jobs))
    ours = [job for job in recorder.started if job.id in set(jobs)]
    assert len(ours) == len(jobs)
    assert {job.attempt for job in ours} == {1}
    async with asyncio.timeout(20):
        while True:
            letters = await performer.dead_letters.list(limit=100)
            foreign = len(recorder.started) - len(jobs)
            if len(letters) + foreign == taken:
                break
            await asyncio.sleep(0.05)
    assert taken > 30
    assert foreign > 3
    await drained(worker, dead=len(letters))


async def test_times_that_no_clock_shows(make, broker, space, recorder, drained):
    late = entry(b"offload-due", b"l" + (2**61).to_bytes(8, "big"))
    hold = entry(b"offload-hold", b"l" + (2**61).to_bytes(8, "big"))
    worker = make()
    worker.register("note", recorder.note)
    await worker.start()
    for name in ("q", "soon"):
        message = Poison(b"m", late + hold, envelope())
        await publish(broker.port, f"{space}.{name}.default", [message])
    await recorder.until_started(2)
    await drained(worker)


async def test_numbers_of_ours_that_are_no_numbers(make, broker, space, recorder, drained):
    worker = make()
    worker.register("note", recorder.note)
    await worker.start()
    texts = (b"S" + sized(b"1"), b"x" + sized(b""))
    values = (*texts, b"F" + sized(b""), b"A" + sized(b""), b"V", b"t\x01")
    odd = [
        Poison(b"%d" % number, entry(b"offload-runs", value) + entry(b"offload-due", value), body)
        for number, value in enumerate(values)
        for body in (envelope(),)
    ]
    await publish(broker.port, f"{space}.q.default", odd)
    await publish(broker.port, f"{space}.soon.default", odd)
    await recorder.until_started(2 * len(odd))
    assert {job.attempt for job in recorder.started} == {1}
    await drained(worker)
