"""What `offload.driver` asks of a driver, of the two that are embedded: without an engine."""

from __future__ import annotations

import asyncio
import time

import pytest
from watched import DEADLINE

import offload_simple
import offload_sqlite
from offload import Delivery, Entry, Failure, Settlement, UsageError, Verdict
from offload.config import parse_address, read_config

NAMES = ("simple", "sqlite")
DURABLE = {"simple": False, "sqlite": True}


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.fixture
async def driver(name, tmp_path):
    adapter = {"simple": offload_simple, "sqlite": offload_sqlite}[name].ADAPTER
    url = "simple://" if name == "simple" else f"sqlite:///{tmp_path}/jobs.db"
    config = read_config(parse_address(url), adapter.options)
    driver = adapter.make(config)
    await driver.open()
    yield driver
    await driver.close()


@pytest.fixture
async def subscription(driver):
    subscription = await driver.subscribe(["default", "other"])
    yield subscription
    await subscription.close()


def entries(count: int, queue: str = "default") -> list[Entry]:
    return [Entry(f"{queue}-{number}", queue, b"body \xff %d" % number) for number in range(count)]


async def test_a_fetch_brings_what_was_stored_up_to_its_limit_and_waits_for_nothing(
    driver, subscription
):
    async with asyncio.timeout(DEADLINE):
        assert list((await subscription.fetch(5)).deliveries) == []
    stored = entries(5)
    await driver.enqueue(stored)
    first = (await subscription.fetch(3)).deliveries
    second = (await subscription.fetch(3)).deliveries
    got = [*first, *second]
    assert (len(first), len(second)) == (3, 2)
    assert [(each.id, each.queue, each.body) for each in got] == [
        (entry.id, entry.queue, entry.body) for entry in stored
    ]
    assert {each.attempt for each in got} == {1}
    now = time.time_ns() // 1_000_000
    assert all(now - 60_000 < each.due_ms <= now + 1 for each in got)
    await subscription.settle([Settlement(each, Verdict.ACKNOWLEDGE) for each in got])


async def test_a_fetch_says_when_the_next_one_is_due(driver, subscription):
    assert (await subscription.fetch(5)).next_due_ms is None
    await driver.enqueue([Entry("later", "default", b"", delay_ms=60_000)])
    fetched = await subscription.fetch(5)
    assert list(fetched.deliveries) == []
    assert 0 < fetched.next_due_ms <= 60_001
    at_ms = time.time_ns() // 1_000_000 + 30_000
    await driver.enqueue([Entry("sooner", "default", b"", at_ms=at_ms)])
    assert 0 < (await subscription.fetch(5)).next_due_ms <= 30_001


async def test_a_wait_takes_nothing_and_ends_after_its_timeout(driver, subscription):
    async with asyncio.timeout(DEADLINE):
        await subscription.wait(0.01)
    waiting = asyncio.ensure_future(subscription.wait(DEADLINE * 10))
    await asyncio.sleep(0)
    await driver.enqueue(entries(1))
    async with asyncio.timeout(DEADLINE):
        await waiting
    cancelled = asyncio.ensure_future(subscription.wait(DEADLINE * 10))
    await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.gather(cancelled, return_exceptions=True)
    async with asyncio.timeout(DEADLINE):
        await subscription.wait(DEADLINE * 10)  # it came before this call
        assert len((await subscription.fetch(5)).deliveries) == 1


async def test_a_verdict_is_carried_out_once(driver, subscription):
    await driver.enqueue(entries(1))
    (delivery,) = (await subscription.fetch(5)).deliveries
    retry = Settlement(delivery, Verdict.RETRY, delay_ms=0, failure=Failure("no", "", 1))
    assert list(await subscription.settle([retry])) == []
    for verdict in Verdict:
        again = Settlement(delivery, verdict, failure=Failure("no", "", 1))
        assert [each.id for each in await subscription.settle([again])] == [delivery.id]
    (second,) = await until_one(subscription)
    assert second.attempt == 2
    assert list(await subscription.settle([Settlement(second, Verdict.RELEASE)])) == []
    (third,) = await until_one(subscription)
    assert third.attempt == 2
    dead = Settlement(third, Verdict.DEAD_LETTER, failure=Failure("no", "why", 2))
    assert list(await subscription.settle([dead])) == []
    letter = await driver.show_dead(delivery.id)
    assert (letter.id, letter.queue, letter.body) == (third.id, third.queue, third.body)
    assert letter.failure == Failure("no", "why", 2)


async def until_one(subscription) -> list[Delivery]:
    async with asyncio.timeout(DEADLINE):
        while not (found := list((await subscription.fetch(5)).deliveries)):
            await subscription.wait(0.01)
    return found


async def test_a_released_job_goes_to_the_head_of_its_queue(driver, subscription):
    await driver.enqueue(entries(3))
    (first,) = (await subscription.fetch(1)).deliveries
    await subscription.settle([Settlement(first, Verdict.RELEASE)])
    again = (await subscription.fetch(3)).deliveries
    assert [(each.id, each.attempt) for each in again] == [
        ("default-0", 1),
        ("default-1", 1),
        ("default-2", 1),
    ]


async def test_only_its_own_queues_are_consumed(driver):
    await driver.enqueue(entries(1, "other") + entries(1, "third"))
    subscription = await driver.subscribe(["other"])
    assert [each.queue for each in (await subscription.fetch(5)).deliveries] == ["other"]
    await subscription.close()


async def test_a_close_of_a_subscription_gives_back_what_was_leased(driver):
    subscription = await driver.subscribe(["default"])
    await driver.enqueue(entries(2))
    assert len((await subscription.fetch(5)).deliveries) == 2
    await subscription.close()
    after = await driver.subscribe(["default"])
    assert [each.id for each in await until_one(after)] == ["default-0", "default-1"]
    await after.close()


async def test_a_close_tells_what_nothing_else_remembers_and_open_comes_again(driver, name):
    await driver.enqueue(entries(2))
    lost = await driver.close()
    assert list(lost) == ([] if DURABLE[name] else ["default-0", "default-1"])
    await driver.open()
    assert (await driver.counts())["default"].waiting == 2


async def test_dead_letters_by_page_and_by_id(driver, subscription):
    await driver.enqueue(entries(4))
    for delivery in (await subscription.fetch(4)).deliveries:
        failure = Failure("no", "", 1)
        await subscription.settle([Settlement(delivery, Verdict.DEAD_LETTER, failure=failure)])
    page = await driver.list_dead(2, None)
    assert [letter.id for letter in page] == ["default-0", "default-1"]
    assert await driver.discard_dead(["default-1", "nobody"]) == ["default-1"]
    after = page[-1].cursor or page[-1].id
    assert [letter.id for letter in await driver.list_dead(5, after)] == ["default-2", "default-3"]
    assert await driver.requeue_dead(["nobody", "default-3"]) == ["default-3"]
    assert await driver.show_dead("default-3") is None
    assert [letter.id for letter in await driver.list_dead(5, None)] == ["default-0", "default-2"]
    (again,) = await until_one(subscription)
    assert (again.id, again.attempt) == ("default-3", 1)
    with pytest.raises(UsageError):
        await driver.list_dead(5, "no cursor")
