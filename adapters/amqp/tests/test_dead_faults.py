"""DEAD-2 and DEAD-3 when the connection is cut, and when letters are there twice."""

from __future__ import annotations

import asyncio
import re

import pytest
from support import DEADLINE

from offload import BackendUnavailableError
from offload_amqp import looks

# What is timed, and what keeps the broker busy, don't run at the same time.
pytestmark = pytest.mark.xdist_group("busy-broker")


def ids_of(letters):
    return [letter.id for letter in letters]


async def until_back(letters, count):
    """The ids of all letters, once the broker has put back what a cut connection held."""
    left = None
    async with asyncio.timeout(DEADLINE):
        while True:
            before, left = left, ids_of(await letters.list(5000))
            if left == before and len(left) >= count:
                return left


@pytest.fixture
def cut_after(wire):
    """Cuts every connection once so many messages were delivered."""

    def cut_after(count):
        count_delivery = wire.see_reply

        def see_reply(data):
            count_delivery(data)
            if wire.deliveries >= count:
                wire.see_reply = count_delivery
                wire.reset()

        wire.see_reply = see_reply

    return cut_after


@pytest.mark.parametrize("by_id", [True, False], ids=["ids", "all"])
async def test_dead_2_cut_while_it_requeues(make, wire, bury, recorder, cut_after, by_id):
    """None is lost; the error says how many were requeued, and that more may be."""
    ids = await bury(4000)
    letters = make(wire.url).dead_letters
    cut_after(2200)
    with pytest.raises(BackendUnavailableError) as raised:
        await (letters.requeue(ids) if by_id else letters.requeue_all())
    assert raised.value.maybe_stored
    told = re.search(r"([\d,]+) dead letters were requeued before", str(raised.value))
    done = int(told[1].replace(",", ""))
    assert 0 < done < 2200
    left = await until_back(letters, 4000 - 2200)
    worker = make(wire.url, concurrency=100)
    worker.register("note", recorder.note)
    assert len(left) == await letters.requeue_all()
    await worker.start()
    await recorder.until(lambda: {job.id for job in recorder.started} == set(ids))
    assert {job.attempt for job in recorder.started} == {1}


async def test_dead_3_cut_while_it_discards(make, wire, bury, cut_after):
    ids = await bury(4000)
    letters = make(wire.url).dead_letters
    cut_after(2200)
    with pytest.raises(BackendUnavailableError, match="dead letters were discarded before") as told:
        await letters.discard_all()
    assert told.value.maybe_stored
    left = await until_back(letters, 4000 - 2200)
    assert len(left) < 4000
    assert left == ids[-len(left) :]


async def test_dead_2_cut_before_the_first_is_acknowledged(make, wire, bury, stranger):
    """Then it is there as a job and as a letter, which the error doesn't deny."""
    (job_id,) = await bury(1)
    letters = make(wire.url).dead_letters
    wire.trap(b"\x00\x3c\x00\x50")
    with pytest.raises(BackendUnavailableError) as raised:
        await letters.requeue([job_id])
    assert raised.value.maybe_stored
    await stranger.until("q.default", ready=1)
    await stranger.until("dead.default", ready=1)


async def test_dead_1_cut_while_it_lists(make, wire, bury, cut_after):
    """Nothing can have changed, and the next look works."""
    ids = await bury(2000)
    letters = make(wire.url).dead_letters
    cut_after(1500)
    with pytest.raises(BackendUnavailableError) as raised:
        await letters.list(5000)
    assert not raised.value.maybe_stored
    assert await until_back(letters, 2000) == ids


async def test_dead_1_the_broker_falls_silent(make, wire, bury):
    """It doesn't hang."""
    await bury(2000)
    letters = make(wire.url, timeout="1s").dead_letters
    count_delivery = wire.see_reply

    def lose_what_comes_next(data):
        count_delivery(data)
        if wire.deliveries >= 600:
            wire.half_open()

    wire.see_reply = lose_what_comes_next
    with pytest.raises(BackendUnavailableError, match="in time"):
        await letters.list(5000)


@pytest.mark.parametrize("way", ["requeue", "discard", "requeue_all", "discard_all"])
async def test_dead_2_copies_of_a_letter(make, bury, stranger, way):
    """As a connection that is lost while a job is buried may leave them. They are one job."""
    ids = await bury(3)
    await bury(3)
    letters = make().dead_letters
    assert sorted(ids_of(await letters.list())) == sorted(2 * ids)
    if way.endswith("_all"):
        assert await getattr(letters, way)() == 6
    else:
        assert sorted(await getattr(letters, way)(ids)) == ids
    await stranger.until("dead.default", ready=0, consumers=0)
    if way.startswith("requeue"):
        await stranger.until("q.default", ready=3)


async def test_dead_2_the_body_is_kept_to_the_byte(make, stranger, bury):
    bodies = [b"", b"\x00\xff not an envelope", b"{" * 200_000, b"\xce" * 131_073]
    await bury(1)
    for number, body in enumerate(bodies):
        await stranger.publish("dead.default", body, message_id=f"odd {number}")
    assert await make().dead_letters.requeue_all() == 5
    _, *taken = await stranger.take("q.default", 5)
    assert [message.body for message in taken] == bodies
    assert [message.header.properties.message_id for message in taken] == [
        f"odd {number}" for number in range(4)
    ]


async def test_dead_1_a_queue_that_counts_none(make, bury, monkeypatch):
    """As one does whose leader has just changed, or into which the first letter comes just now."""
    (job_id,) = await bury(1)

    async def count_none(line, name):
        await line.channel()
        return 0

    monkeypatch.setattr(looks, "ready_in", count_none)
    letters = make(timeout="1s").dead_letters
    assert ids_of(await letters.list()) == [job_id]
    assert (await letters.show(job_id)).id == job_id
    assert await letters.discard_all() == 1
    assert await letters.discard_all() == 0
