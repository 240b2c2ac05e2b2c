"""DEAD with thousands of letters: a page stops at its limit, and all go in one pass."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time

import aiormq
import pytest
from support import DEADLINE, Log

from offload import Job, UsageError

# What is timed, and what keeps the broker busy, don't run at the same time.
pytestmark = pytest.mark.xdist_group("busy-broker")

MANY = 20_000


def ids_of(letters):
    return [letter.id for letter in letters]


@pytest.fixture(params=["quorum", "classic"])
def queue_type(request):
    return request.param


async def test_dead_1_a_page_takes_little_more_than_its_limit(make, wire, bury, queue_type):
    """What it takes besides is what shows that nothing older comes behind."""
    ids = await bury(6000, queue_type=queue_type)
    letters = make(wire.url, queue_type=queue_type).dead_letters
    page = await letters.list(5)
    assert ids_of(page) == ids[:5]
    assert wire.deliveries <= 2000
    wire.deliveries = 0
    assert ids_of(await letters.list(5, page[-1].cursor)) == ids[5:10]
    assert wire.deliveries <= 2000


async def test_dead_1_a_page_after_a_look_at_all(make, wire, bury, queue_type):
    """A quorum queue puts what a look gives back behind what an earlier one gave back."""
    ids = await bury(3000, queue_type=queue_type)
    letters = make(wire.url, queue_type=queue_type).dead_letters
    assert ids_of(await letters.list(7)) == ids[:7]
    assert ids_of(await letters.list(5000)) == ids
    assert ids_of(await letters.list(700)) == ids[:700]
    page = await letters.list(1500)
    assert ids_of(page) == ids[:1500]
    assert ids_of(await letters.list(9, page[-1].cursor)) == ids[1500:1509]
    assert ids_of(await letters.list(7)) == ids[:7]


async def test_dead_1_a_walk_sees_each_letter_once(make, bury):
    """Of several queues, while an operator discards some, and a worker buries more."""
    letters = make(queues="a,b,c").dead_letters
    ids = []
    for number in range(12):
        ids += await bury(90, queue="abc"[number % 3], first=90 * number)
    seen, after = [], None
    while page := await letters.list(100, after):
        seen += ids_of(page)
        after = page[-1].cursor
        assert len(await letters.discard(ids_of(page[10:]))) == len(page) - 10
        if len(seen) == 300:
            ids += await bury(50, queue="a", first=5000)
    assert seen == ids


async def test_dead_1_letters_that_come_late(make, broker, space, bury):
    """A worker whose clock is behind buries out of order: they are listed by their times."""
    letters = make().dead_letters
    late = await bury(400)
    await letters.list(1)
    dead = f"{space}.dead.default"
    await move_to_the_end(broker.url, dead, 150)
    await bury(10, first=400)
    seen, after = [], None
    while page := await letters.list(30, after):
        seen += ids_of(page)
        after = page[-1].cursor
    assert seen == [*late, *(f"{number:032x}" for number in range(400, 410))]


async def move_to_the_end(url, name, count):
    """Publish the first letters of a queue again, as they are."""
    connection = await aiormq.connect(f"{url.replace('//', '//guest:guest@')}//")
    try:
        channel = await connection.channel()
        for _ in range(count):
            message = await channel.basic_get(name)
            await channel.basic_publish(
                message.body, routing_key=name, properties=message.header.properties
            )
            await channel.basic_ack(message.delivery_tag)
    finally:
        await connection.close()


@pytest.mark.parametrize(
    "cursor",
    [
        *("", ":", "nobody", "12", "1/a/b/c", "1/a/b/0/1/2", "9" * 5000),
        *("x/a/b/0/1", "01/a/b/0/1", "1/a/b/0/1:", "1/a/b/0/1:1/a/b/0/1", f"{1 << 62}/a/b/0/1"),
        *("1/\udcff/b/0/1", "1/%FF/b/0/1", "1/a b/b/0/1"),
    ],
)
async def test_an_odd_cursor_is_refused(make, cursor):
    with pytest.raises(UsageError, match="is not the cursor of a dead letter"):
        await make().dead_letters.list(5, cursor)


@pytest.mark.parametrize("limit", [0, -1])
async def test_a_page_of_none(make, bury, limit):
    await bury(2)
    assert list(await make().dead_letters.list(limit)) == []


async def test_dead_2_all_are_requeued_in_one_pass(
    make, broker, space, bury, stranger, recorder, queue_type
):
    """By the command, as an operator would: each once, with its body."""
    ids = await bury(MANY, queue_type=queue_type)
    url = f"{broker.url}?namespace={space}&queue_type={queue_type}"
    begin = time.monotonic()
    assert await command("list", url, "--limit", "5") != ""
    assert time.monotonic() - begin < 5
    begin = time.monotonic()
    assert await command("requeue", url, "--all") == f"{MANY:,} requeued\n"
    assert time.monotonic() - begin < 20
    await stranger.until("dead.default", ready=0, consumers=0)
    await stranger.until("q.default", ready=MANY)
    worker = make(queue_type=queue_type, concurrency=100)
    worker.register("note", recorder.note)
    await worker.start()
    await recorder.until_started(MANY)
    assert sorted(job.id for job in recorder.started) == ids


async def command(*args):
    """What `offload dead …` prints."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "offload", "dead", *args),
        stdout=subprocess.PIPE,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    return output.decode()


async def test_dead_3_all_are_discarded(make, bury, stranger):
    await bury(1700, queue="a")
    await bury(300, queue="b")
    worker = make(queues="a,b,missing")
    assert await worker.dead_letters.discard_all() == 2000
    assert await worker.dead_letters.discard_all() == 0
    await stranger.until("dead.a", ready=0)
    await stranger.until("dead.b", ready=0)


async def test_dead_2_what_dies_again_meanwhile_is_left(make, bury, stranger, recorder):
    """It comes to an end, though a worker buries each again at once."""
    ids = await bury(2000)
    worker = make(concurrency=50)
    log = Log()
    worker.observe(log)
    worker.register("note", recorder.failing(9), max_attempts=1)
    await worker.start()
    assert await worker.dead_letters.requeue_all() == 2000
    await log.until("job_dead", 2000)
    await stranger.until("dead.default", ready=2000)
    assert sorted(ids_of(await worker.dead_letters.list(5000))) == ids


async def test_dead_1_a_list_while_a_worker_buries_more(make, bury, recorder):
    ids = await bury(1500)
    worker = make(concurrency=50)
    log = Log()
    worker.observe(log)
    worker.register("fail", recorder.failing(1), max_attempts=1)
    await worker.start()
    more = asyncio.create_task(worker.perform_many([Job("fail")] * 1500))
    letters = worker.dead_letters
    while log.count("job_dead") < 1500:
        assert ids_of(await letters.list(20)) == ids[:20]
    found = ids_of(await letters.list(5000))
    assert found[:1500] == ids
    assert sorted(found[1500:]) == sorted(await more)


async def test_dead_3_every_other_one_is_discarded(make, bury, queue_type):
    """They are gone for good: a broker may forget acknowledgements when a channel closes."""
    letters = make(queue_type=queue_type).dead_letters
    for first in range(0, 2000, 400):
        ids = await bury(400, first=first, queue_type=queue_type)
        gone = ids[1::2]
        assert await letters.discard([*gone, *gone[:5], "nobody"]) == gone
        assert await letters.discard(gone) == []
        assert ids_of(await letters.list(5000)) == ids[::2]
        assert await letters.discard_all() == 200


async def test_dead_2_two_who_requeue_all_at_once(make, bury, stranger):
    """Each letter goes to one of them; none becomes two jobs."""
    await bury(3000)
    one, other = make().dead_letters, make().dead_letters
    taken = await asyncio.gather(one.requeue_all(), other.requeue_all())
    taken.append(await one.requeue_all())
    assert sum(taken) == 3000
    await stranger.until("dead.default", ready=0, consumers=0)
    await stranger.until("q.default", ready=3000)


@pytest.mark.parametrize("way", ["requeue_all", "discard_all"])
async def test_dead_2_all_are_those_that_are_there_when_it_begins(make, bury, stranger, way):
    """Others die all the while, and some of what is requeued dies again."""
    await bury(3000)
    log, over = Log(), asyncio.Event()
    worker = make(max_attempts=1)
    worker.observe(log)

    @worker.handler("note")
    async def note(args):
        raise ValueError

    await worker.start()

    async def die():
        while not over.is_set():
            await worker.perform_many([Job("note")] * 20)

    dying = asyncio.create_task(die())
    await log.until("job_dead", 1)
    dead_before = log.count("job_dead")
    async with asyncio.timeout(DEADLINE):
        taken = await getattr(worker.dead_letters, way)()
    assert 3000 <= taken <= 3000 + log.count("job_dead")
    dead_meanwhile = log.count("job_dead") - dead_before
    assert dead_meanwhile > 0
    assert taken < 3000 + dead_before + dead_meanwhile
    over.set()
    await dying


async def test_dead_1_two_who_look_at_once_see_parts_and_change_nothing(make, bury):
    ids = await bury(3000)
    one, other = make().dead_letters, make().dead_letters
    parts = await asyncio.gather(one.list(5000), other.list(5000))
    assert all(ids_of(part) == sorted(set(ids_of(part)) & set(ids)) for part in parts)
    async with asyncio.timeout(DEADLINE):
        while ids_of(await one.list(5000)) != ids:
            pass
    assert ids_of(await other.list(10)) == ids[:10]


async def test_dead_1_letters_that_do_not_tell_when_they_died(make, bury, stranger):
    """They come last, wherever they lie; what joins while they are listed is listed, too."""
    ids, foreign = [], []
    for number in range(6):
        ids += await bury(500, first=1000 * number)
        foreign.append(f"foreign {number}")
        await stranger.publish("dead.default", b"?", message_id=foreign[-1])
    letters = make().dead_letters
    page = await letters.list(5)
    assert ids_of(page) == ids[:5]
    page = await letters.list(3001, page[-1].cursor)
    assert ids_of(page) == [*ids[5:], *foreign[:6]]
    page = await letters.list(2, page[-8].cursor)
    assert ids_of(page) == [ids[-1], foreign[0]]
    assert sorted(await letters.discard(ids_of(page))) == ids_of(page)
    later = await bury(2, first=9000)
    page = await letters.list(100, page[-1].cursor)
    assert ids_of(page) == [*later, *foreign[1:]]
    assert list(await letters.list(5, page[-1].cursor)) == []
