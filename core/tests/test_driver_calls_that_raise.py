"""What a driver raises, from whichever call, is logged with its traceback or reaches the caller."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from faulty import faulty_worker

from offload import Job
from offload.engine import lease_keeper

DEADLINE = 30.0


class OddError(Exception):
    """What no driver should raise."""


async def raises(*_: object) -> None:
    raise OddError("the driver's own")


def told_with_traceback(caplog) -> list[str]:
    """The lines that came with the traceback of the driver's error."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.exc_info
        and isinstance(record.exc_info[1], OddError)
        and record.exc_info[1].__traceback__ is not None
    ]


async def until_told(caplog) -> None:
    async with asyncio.timeout(DEADLINE):
        while not told_with_traceback(caplog):
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("call", ["fetch", "wait", "settle"])
async def test_a_call_of_the_work_that_raises_is_logged(call, caplog):
    worker, _ = faulty_worker("grace=1s", **{call: raises})

    @worker.handler("work")
    async def work(args): ...

    await worker.start()
    await worker.perform(Job("work", {}))
    await until_told(caplog)
    await worker.stop()


async def test_an_extension_that_raises_is_logged(caplog, monkeypatch):
    monkeypatch.setattr(lease_keeper, "SHORTEST_GAP", 0.01)

    def extend(deliveries):
        raise OddError("the driver's own")

    worker, _ = faulty_worker(lease=timedelta(seconds=0.03), extend=extend)
    await worker.start()
    await until_told(caplog)
    await worker.stop()


async def test_a_subscription_that_can_not_be_closed_is_logged(caplog):
    worker, _ = faulty_worker(close=raises)
    await worker.start()
    await worker.stop()
    assert told_with_traceback(caplog) == ["the driver failed to close"]


async def test_a_driver_that_can_not_be_closed_is_logged(caplog):
    worker, driver = faulty_worker()
    driver.close = raises
    await worker.start()
    await worker.stop()
    assert told_with_traceback(caplog) == ["the driver failed to close"]


async def test_counts_that_raise_reach_the_caller():
    worker, driver = faulty_worker()
    driver.counts = raises
    with pytest.raises(OddError):
        await worker.counts()
    await worker.stop()
