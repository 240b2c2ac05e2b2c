"""The backend goes away while the settler looks for the verdict that it refused."""

from __future__ import annotations

import asyncio

from faulty import faulty_worker

import offload
from offload import BackendUnavailableError, Job

DEADLINE = 20.0
JOBS = 400


async def test_an_outage_amid_the_search_is_not_taken_for_a_fault_of_each_verdict():
    calls: list[int] = []
    away = asyncio.Event()

    def fails(settlements):
        calls.append(len(settlements))
        if len(settlements) > JOBS // 2:
            away.set()  # it refuses the batch, and is gone with the next call
            return KeyError("one of these")
        return BackendUnavailableError("away") if away.is_set() else None

    worker, driver = faulty_worker(f"concurrency={JOBS}", before_settle=fails)
    started, gate = [], asyncio.Event()

    @worker.handler("job")
    async def job(args):
        started.append(offload.current_job().id)
        await gate.wait()

    await worker.start()
    await worker.perform_many([Job("job")] * JOBS)
    settler = worker._dispatcher._settler
    async with asyncio.timeout(DEADLINE):
        while len(started) < JOBS:
            await asyncio.sleep(0.002)
        gate.set()
        await away.wait()
        while settler._in_flight:  # a call may take as long as a time limit of the driver's
            await asyncio.sleep(0.002)
        assert len(calls) < 40
        assert len(settler.deliveries()) == JOBS  # each is kept, and its lease extended
        away.clear()
        fails_no_more = len(calls)
        driver.subscription.before_settle = lambda settlements: None
        while settler.unsettled or driver._memory.running:
            await asyncio.sleep(0.002)
    assert fails_no_more
    assert sorted(driver.subscription.settled) == sorted(started)
    report = await worker.stop()
    assert report.finished == 0 or report.lost == ()
