"""The driver's primitives, each harmless when it comes twice; on a real server and on the fake."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from offload import BackendUnavailableError, Entry, Failure, QueueCounts, Settlement, Verdict
from offload.config import parse_address, read_config
from offload_redis import scripts
from offload_redis.driver import RedisDriver
from offload_redis.link import Link
from offload_redis.options import COMMON


def entries(count, queue="default", size=3, **when):
    return [Entry(f"{queue}-{n:05}", queue, b"x" * size, **when) for n in range(count)]


def ids(fetched):
    return [delivery.id for delivery in fetched.deliveries]


def verdicts(fetched, verdict, **what):
    return [Settlement(delivery, verdict, **what) for delivery in fetched.deliveries]


async def all_ids(subscription, limit=100):
    found = []
    while part := ids(await subscription.fetch(limit)):
        found += part
    return found


# -- twice is once ---------------------------------------------------------------


async def test_enqueue_twice_stores_once(driver, subscribe, lose_reply):
    await driver.enqueue(entries(1, "other"))
    subscription = await subscribe(driver)
    lost = lose_reply(scripts.ENQUEUE)
    await driver.enqueue(entries(250))
    assert lost
    assert await all_ids(subscription) == [entry.id for entry in entries(250)]


async def test_enqueue_twice_stores_once_what_is_for_later(driver, lose_reply):
    await driver.enqueue(entries(1, "other"))
    lost = lose_reply(scripts.ENQUEUE)
    await driver.enqueue(entries(3, delay_ms=60_000))
    assert lost
    assert (await driver.counts())["default"] == QueueCounts(scheduled=3)


async def test_fetch_twice_brings_the_same_jobs(driver, subscribe, lose_reply):
    await driver.enqueue(entries(20))
    subscription = await subscribe(driver)
    first = await subscription.fetch(5)
    lost = lose_reply(scripts.FETCH)
    second = await subscription.fetch(5)
    assert lost
    assert ids(first) + ids(second) == [entry.id for entry in entries(10)]
    assert (await driver.counts())["default"] == QueueCounts(waiting=10, running=10)
    assert not await subscription.settle(verdicts(second, Verdict.ACKNOWLEDGE))
    assert (await driver.counts())["default"] == QueueCounts(waiting=10, running=5)


async def test_the_first_fetch_twice_brings_the_same_jobs(driver, subscribe, lose_reply):
    await driver.enqueue(entries(20))
    subscription = await subscribe(driver)
    lost = lose_reply(scripts.FETCH)
    assert ids(await subscription.fetch(5)) == [entry.id for entry in entries(5)]
    assert lost
    assert (await driver.counts())["default"] == QueueCounts(waiting=15, running=5)


@pytest.mark.parametrize(
    ("verdict", "counts"),
    [
        (Verdict.ACKNOWLEDGE, QueueCounts(waiting=5)),
        (Verdict.RELEASE, QueueCounts(waiting=10)),
        (Verdict.RETRY, QueueCounts(waiting=5, scheduled=5)),
        (Verdict.DEAD_LETTER, QueueCounts(waiting=5, dead=5)),
    ],
)
async def test_a_verdict_twice_is_one(driver, subscribe, lose_reply, verdict, counts):
    await driver.enqueue(entries(11))
    subscription = await subscribe(driver)
    warm_up = await subscription.fetch(1)
    await subscription.settle(verdicts(warm_up, Verdict.ACKNOWLEDGE))
    fetched = await subscription.fetch(5)
    script = scripts.ACKNOWLEDGE if verdict is Verdict.ACKNOWLEDGE else scripts.SETTLE
    lost = lose_reply(script)
    settled = verdicts(fetched, verdict, delay_ms=60_000 if verdict is Verdict.RETRY else 0)
    assert not await subscription.settle(settled)
    assert lost
    assert (await driver.counts())["default"] == counts


async def test_leave_twice_gives_back_once(driver, subscribe, lose_reply):
    await driver.enqueue(entries(10))
    subscription = await subscribe(driver)
    taken = await subscription.fetch(5)
    await subscription.settle(verdicts(taken, Verdict.ACKNOWLEDGE)[:1])
    lost = lose_reply(scripts.LEAVE)
    await subscription.close()
    assert lost
    assert await all_ids(await subscribe(driver)) == [entry.id for entry in entries(10)][1:]


async def test_requeue_twice_gives_back_once(driver, subscribe, lose_reply):
    await driver.enqueue(entries(3))
    subscription = await subscribe(driver)
    await subscription.settle(verdicts(await subscription.fetch(3), Verdict.DEAD_LETTER))
    lost = lose_reply(scripts.REQUEUE)
    with pytest.raises(BackendUnavailableError):
        await driver.requeue_dead([entry.id for entry in entries(2)])
    assert lost
    assert await driver.requeue_dead([entry.id for entry in entries(2)]) == []
    assert (await driver.counts())["default"] == QueueCounts(waiting=2, dead=1)


@pytest.mark.parametrize("name", ["requeue", "discard"])
async def test_requeue_and_discard_say_so_when_their_answer_was_lost(
    driver, subscribe, lose_reply, name
):
    await driver.enqueue(entries(3))
    subscription = await subscribe(driver)
    await subscription.settle(verdicts(await subscription.fetch(3), Verdict.DEAD_LETTER))
    wanted = [entry.id for entry in entries(2)]
    lose_reply(getattr(scripts, name.upper()))
    with pytest.raises(BackendUnavailableError) as raised:
        await getattr(driver, f"{name}_dead")(wanted)
    assert raised.value.maybe_stored


# -- sessions --------------------------------------------------------------------


async def lapse(driver, subscription):
    """Let the worker of a subscription have been silent for longer than its lease."""
    (session,) = subscription._sessions
    keys = session.keys
    await driver._link.execute([("ZADD", keys.leases, -1, session.name)])


@pytest.mark.parametrize("verdict", list(Verdict))
async def test_dur_8_a_stale_session_settles_nothing(driver, subscribe, verdict):
    await driver.enqueue(entries(3))
    stale, other = await subscribe(driver), await subscribe(driver)
    lost = await stale.fetch(3)
    await lapse(driver, stale)
    taken = await other.fetch(2)
    assert [delivery.attempt for delivery in taken.deliveries] == [2, 2]
    foreign = await stale.settle(verdicts(lost, verdict, failure=Failure("x")))
    assert list(foreign) == list(lost.deliveries)
    assert (await driver.counts())["default"] == QueueCounts(waiting=1, running=2)
    assert list(await asyncio.to_thread(stale.extend, lost.deliveries)) == list(lost.deliveries)
    again = await stale.fetch(9)  # at once, under another name
    again = again if again.deliveries else await stale.fetch(9)
    assert ids(again) == [entry.id for entry in entries(3)][2:]
    assert not await stale.settle(verdicts(again, Verdict.ACKNOWLEDGE))
    assert not await other.settle(verdicts(taken, Verdict.ACKNOWLEDGE))
    assert await driver.counts() == {}


async def test_a_lease_that_is_extended_is_not_lost(driver, subscribe):
    await driver.enqueue(entries(3))
    holder, other = await subscribe(driver), await subscribe(driver)
    held = await holder.fetch(3)
    await lapse(driver, holder)
    assert not await asyncio.to_thread(holder.extend, held.deliveries)
    assert not (await other.fetch(3)).deliveries
    assert not await holder.settle(verdicts(held, Verdict.ACKNOWLEDGE))


async def test_reclaimed_jobs_go_to_the_head_in_their_order_and_the_attempt_counts(
    driver, subscribe
):
    await driver.enqueue(entries(500))
    dead, other = await subscribe(driver), await subscribe(driver)
    for _ in range(3):
        assert len((await dead.fetch(80)).deliveries) == 80
    await lapse(driver, dead)
    found = []
    while part := (await other.fetch(100)).deliveries:
        found += part
    assert [delivery.id for delivery in found] == [entry.id for entry in entries(500)]
    assert [delivery.attempt for delivery in found] == [2] * 240 + [1] * 260


async def test_leave_and_release_burn_no_attempt_and_keep_the_order(driver, subscribe):
    await driver.enqueue(entries(300))
    first, second = await subscribe(driver), await subscribe(driver)
    for _ in range(2):
        await first.fetch(100)
    released = await first.fetch(50)
    await first.settle(verdicts(released, Verdict.RELEASE)[::-1])
    await first.close()
    found = []
    while part := (await second.fetch(100)).deliveries:
        found += part
    assert [delivery.id for delivery in found] == [entry.id for entry in entries(300)]
    assert {delivery.attempt for delivery in found} == {1}


async def test_a_retry_is_the_next_attempt(driver, subscribe):
    await driver.enqueue(entries(1))
    subscription = await subscribe(driver)
    for attempt in range(1, 5):
        fetched = await subscription.fetch(1)
        while not fetched.deliveries:
            await subscription.wait((fetched.next_due_ms or 0) / 1000)
            fetched = await subscription.fetch(1)
        assert fetched.deliveries[0].attempt == attempt
        await subscription.settle(verdicts(fetched, Verdict.RETRY, delay_ms=5))


# -- amounts ---------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 99, 100, 101, 1000])
async def test_batches_keep_the_order(driver, subscribe, count):
    await driver.enqueue(entries(count))
    subscription = await subscribe(driver)
    settlements, found = [], []
    while part := await subscription.fetch(1000):
        if not part.deliveries:
            break
        found += ids(part)
        settlements += verdicts(part, Verdict.ACKNOWLEDGE)
    assert found == [entry.id for entry in entries(count)]
    assert not await subscription.settle(settlements)
    assert await driver.counts() == {}


async def test_many_jobs_due_at_once(driver, subscribe):
    await driver.enqueue(entries(450, at_ms=5) + entries(450, "q2", delay_ms=1))
    subscription = await subscribe(driver, "default", "q2")
    found = []
    while len(found) < 900:
        found += ids(await subscription.fetch(100))
    assert len(set(found)) == 900


async def test_bodies_of_a_mebibyte(driver, subscribe):
    await driver.enqueue(entries(5, size=1 << 20))
    subscription = await subscribe(driver)
    fetched = await subscription.fetch(5)
    assert [delivery.body for delivery in fetched.deliveries] == [b"x" * (1 << 20)] * 5
    await subscription.settle(verdicts(fetched, Verdict.DEAD_LETTER))
    assert len((await driver.show_dead("default-00004")).body) == 1 << 20


@pytest.mark.parametrize("body", [b"", b" ", b"1 2 3 4", bytes(range(256)), b"\r\n$-1\r\n"])
async def test_bodies_are_not_looked_into(driver, subscribe, body):
    await driver.enqueue([Entry("a", "default", body)])
    subscription = await subscribe(driver)
    for verdict in (Verdict.RELEASE, Verdict.DEAD_LETTER):
        fetched = await subscription.fetch(1)
        assert fetched.deliveries[0].body == body
        await subscription.settle(verdicts(fetched, verdict))
    assert (await driver.show_dead("a")).body == body
    await driver.requeue_dead(["a"])
    assert (await subscription.fetch(1)).deliveries[0].body == body


async def test_que_3_queues_have_fair_shares(driver, subscribe):
    queues = [f"q{n}" for n in range(7)]
    for queue in queues:
        await driver.enqueue(entries(50, queue))
    subscription = await subscribe(driver, *queues)
    taken = dict.fromkeys(queues, 0)
    for _ in range(7):
        for delivery in (await subscription.fetch(21)).deliveries:
            taken[delivery.queue] += 1
    assert set(taken.values()) == {21}


async def test_que_3_a_single_slot_serves_every_queue(driver, subscribe):
    queues = [f"q{n}" for n in range(5)]
    for queue in queues:
        await driver.enqueue(entries(9, queue))
    subscription = await subscribe(driver, *queues)
    taken = [(await subscription.fetch(1)).deliveries[0].queue for _ in range(10)]
    assert {taken.count(queue) for queue in queues} == {2}


async def test_que_3_an_empty_queue_takes_no_share_of_the_last_one(driver, subscribe):
    queues = [f"q{n}" for n in range(5)]
    subscription = await subscribe(driver, *queues)
    await driver.enqueue(entries(2, "q3"))
    assert len(ids(await subscription.fetch(1)) + ids(await subscription.fetch(1))) == 2


async def test_a_second_look_that_fails_keeps_what_the_first_one_found(
    driver, subscribe, monkeypatch
):
    """With fewer slots than queues a fetch looks in turns, and has jobs when a later turn fails."""
    subscription = await subscribe(driver, "a", "b", "c")
    await driver.enqueue(entries(1, "b"))
    exchange = Link._exchange
    has_found = False

    async def cut_behind_a_find(link, commands):
        nonlocal has_found
        if has_found:
            raise RedisConnectionError("cut")
        replies = await exchange(link, commands)
        has_found = any(isinstance(each, list) and len(each) == 4 and each[3] for each in replies)
        return replies

    monkeypatch.setattr(Link, "_exchange", cut_behind_a_find)
    found = []
    for _ in range(6):
        with contextlib.suppress(BackendUnavailableError):
            found += ids(await subscription.fetch(2))
        has_found = False
    assert found == ["b-00000"]


async def test_dead_letters_are_read_page_by_page(driver, subscribe):
    await driver.enqueue(entries(130) + entries(130, "q2"))
    subscription = await subscribe(driver, "default", "q2")
    for _ in range(4):
        await subscription.settle(verdicts(await subscription.fetch(150), Verdict.DEAD_LETTER))
    found = []
    while page := await driver.list_dead(37, found[-1].cursor or found[-1].id if found else None):
        found += page
    assert len({letter.id for letter in found}) == len(found) == 260
    assert found == sorted(found, key=lambda letter: (letter.died_ms, letter.id))


# -- waiting ---------------------------------------------------------------------


async def test_next_due_is_told_in_milliseconds(driver, subscribe):
    subscription = await subscribe(driver, "default", "q2")
    assert (await subscription.fetch(5)).next_due_ms is None
    await driver.enqueue(entries(1, delay_ms=60_000) + entries(1, "q2", delay_ms=30_000))
    assert 29_000 < (await subscription.fetch(5)).next_due_ms <= 30_001


async def test_two_namespaces_share_nothing(drive, driver, subscribe):
    other = await drive()
    other._namespace = "other"
    await driver.enqueue(entries(3))
    assert await other.counts() == {}
    assert not (await (await subscribe(other)).fetch(5)).deliveries


# -- flushed scripts -------------------------------------------------------------


async def test_a_batch_is_not_half_forgotten_while_another_client_loads_the_scripts(
    start_server, clients, space
):
    """Behind SCRIPT FLUSH the first call of a batch finds no script, and the second one does."""
    server = await start_server()
    client = clients(server.port)
    driver = RedisDriver(read_config(parse_address(f"{server.url}?namespace={space}"), COMMON))
    await driver.open()
    await driver.enqueue(entries(1))
    original = Link._exchange

    async def interleaved(link, commands):
        # As the server may see it: nothing holds the calls of one pipeline together.
        replies = await original(link, commands[:1])
        client.script_load(scripts.ENQUEUE.source)
        return replies + await original(link, commands[1:])

    client.script_flush()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Link, "_exchange", interleaved)
        await driver.enqueue(entries(250))
    await driver.close()
    stored = [
        entry.split()[0].decode() for entry in client.lrange(f"{space}:{{default}}:ready", 0, -1)
    ]
    assert stored == [each.id for each in (*entries(1), *entries(250))]
