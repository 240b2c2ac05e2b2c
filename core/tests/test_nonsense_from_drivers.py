"""What a driver returns may be nonsense: it costs no other job anything, and is told."""

from __future__ import annotations

import asyncio
import itertools
import threading
from datetime import timedelta

import msgspec
import pytest

import offload
from offload import Delivery, Fetched, Job

DEADLINE = 20.0
GOOD = Delivery("id", "default", b"{}", 1, 0, object())


def but(**changes):
    return msgspec.structs.replace(GOOD, **changes)


FETCHED = {
    "nothing": None,
    "no deliveries": Fetched(None),
    "a number": Fetched(7),
    "deliveries that are none": Fetched([None, 3, "text", object()]),
    "an attempt that is no number": Fetched([but(attempt=None), but(attempt="1")]),
    "an attempt of NaN": Fetched([but(attempt=float("nan"))]),
    "a body that is none": Fetched([but(body=None), but(body=3), but(body="text")]),
    "an id that is none": Fetched([but(id=None), but(queue=object())]),
    "a next due time that is text": Fetched([], next_due_ms="soon"),
    "a next due time of NaN": Fetched([], next_due_ms=float("nan")),
    "a next due time in the past": Fetched([], next_due_ms=-(10**30)),
}


@pytest.mark.parametrize("nonsense", FETCHED.values(), ids=FETCHED.keys())
async def test_other_jobs_run_whatever_a_fetch_returns(nonsense, caplog):
    worker = offload.connect("simple://?concurrency=2&grace=2s")
    ran: list[int] = []

    @worker.handler("job")
    async def job(args):
        ran.append(args["n"])

    await worker.start()
    subscription = worker._dispatcher.subscription
    fetch, left = subscription.fetch, iter([nonsense] * 3)

    async def odd(limit):
        for each in left:
            return each
        return await fetch(limit)

    subscription.fetch = odd
    await worker.perform_many([Job("job", {"n": n}) for n in range(20)])
    async with asyncio.timeout(DEADLINE):
        while len(ran) < 20 or worker._slots.busy:
            await asyncio.sleep(0.002)
    assert sorted(ran) == list(range(20))
    async with asyncio.timeout(DEADLINE):
        await worker.stop()


@pytest.mark.parametrize("lease", [timedelta.max, None, timedelta(0)], ids=str)
async def test_a_lease_that_can_not_be_waited_for_holds_up_no_stop(lease):
    worker = offload.connect("simple://?grace=1s")
    driver = worker._driver
    subscribe = driver.subscribe

    async def with_lease(queues):
        subscription = await subscribe(queues)
        subscription.lease = lease
        subscription.extend = lambda deliveries: ()
        return subscription

    driver.subscribe = with_lease
    ran = asyncio.Event()

    @worker.handler("job")
    async def job(args):
        ran.set()

    await worker.start()
    await worker.perform(Job("job"))
    async with asyncio.timeout(DEADLINE):
        await ran.wait()
    thread = worker._dispatcher._lease_keeper._thread
    assert thread.is_alive()
    begun = asyncio.get_running_loop().time()
    await worker.stop()
    assert asyncio.get_running_loop().time() - begun < 0.9
    assert not thread.is_alive()


async def test_a_lease_that_can_not_be_read_is_told_once(watched, caplog):
    worker, _ = watched()
    extended = threading.Event()
    calls = itertools.count(1)

    def extend(deliveries):
        if next(calls) == 3:
            extended.set()
        return ()

    worker._driver.on_extend = extend
    subscribe = worker._driver.subscribe

    async def without_lease(queues):
        subscription = await subscribe(queues)
        subscription.lease = None
        return subscription

    worker._driver.subscribe = without_lease
    await worker.start()
    async with asyncio.timeout(DEADLINE):
        await asyncio.to_thread(extended.wait, DEADLINE)
    told = [record for record in caplog.records if "the length of a lease" in record.getMessage()]
    assert len(told) == 1
    assert "available again" not in caplog.text
