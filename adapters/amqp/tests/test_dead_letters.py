"""DEAD: letters are looked at, put back and forgotten, and a look changes nothing."""

from __future__ import annotations

import asyncio

import pytest
from support import Log

from offload import Job, Reject


@pytest.fixture
async def buried(make, recorder):
    """A worker, and what it buries."""
    worker = make(concurrency=1)
    log = Log()
    worker.observe(log)
    worker.register("fail", recorder.failing(1), max_attempts=1)
    await worker.start()

    async def bury(count):
        before = log.count("job_dead")
        ids = await worker.perform_many([Job("fail", {"n": n}) for n in range(count)])
        await log.until("job_dead", before + count)
        return ids

    return worker, bury


def ids_of(letters):
    return [letter.id for letter in letters]


async def test_dead_1_pages(buried):
    worker, bury = buried
    ids = await bury(7)
    letters = worker.dead_letters
    pages = []
    after = None
    while page := await letters.list(3, after):
        pages.append(ids_of(page))
        after = page[-1].cursor
    assert [len(page) for page in pages] == [3, 3, 1]
    # Those that died within one millisecond are in some order, which is always the same.
    assert sorted(each for page in pages for each in page) == sorted(ids)
    assert [each for page in pages for each in page] == ids_of(await letters.list())


async def test_dead_1_a_look_changes_nothing(buried, stranger, recorder):
    """Neither the order, nor what is there, nor whether it can be looked at again."""
    worker, bury = buried
    ids = await bury(5)
    for _ in range(30):
        assert ids_of(await worker.dead_letters.list()) == ids
    shown = await worker.dead_letters.show(ids[2])
    assert (shown.id, shown.args, shown.attempts) == (ids[2], {"n": 2}, 1)
    assert await worker.dead_letters.show("nobody") is None
    assert ids_of(await worker.dead_letters.list()) == ids
    await stranger.until("dead.default", ready=5, consumers=0)


async def test_a_queue_of_dead_letters_has_no_limit_of_deliveries(space):
    """Since 4.0 the default is 20: so many looks, and the broker would drop the letters."""
    from offload_amqp.names import Names
    from offload_amqp.topology import Queue, Topology

    parts = Topology(Names(space), "quorum").of_queue("default")
    (dead,) = [part for part in parts if isinstance(part, Queue) and ".dead." in part.name]
    assert dead.arguments.get("x-delivery-limit", 20) > 1_000_000


async def test_dead_2_requeued_letters_run_as_attempt_1(buried, recorder, stranger):
    worker, bury = buried
    ids = await bury(4)
    letters = worker.dead_letters
    wanted = [ids[2], "nobody", ids[0]]
    assert sorted(await letters.requeue(wanted)) == sorted([ids[0], ids[2]])
    await recorder.until_started(6)
    assert [(job.id, job.attempt) for job in recorder.started[4:]] == [(ids[0], 1), (ids[2], 1)]
    await stranger.until("dead.default", ready=4)
    assert ids_of(await letters.list())[:2] == [ids[1], ids[3]]


async def test_dead_3_discarded_letters_are_gone(buried, stranger):
    worker, bury = buried
    ids = await bury(4)
    letters = worker.dead_letters
    assert sorted(await letters.discard([ids[1], ids[3], "nobody"])) == sorted([ids[1], ids[3]])
    assert await letters.discard([ids[1]]) == []
    assert ids_of(await letters.list()) == [ids[0], ids[2]]
    await stranger.until("dead.default", ready=2)


async def test_dead_letters_of_several_queues_come_by_age(make, recorder):
    worker = make(queues="a,b")
    log = Log()
    worker.observe(log)
    worker.register("fail", recorder.failing(1), max_attempts=1)
    await worker.start()
    ids = []
    for number, queue in enumerate(("a", "b", "a", "b"), 1):
        ids.append(await worker.perform(Job("fail", queue=queue)))
        await log.until("job_dead", number)
        await asyncio.sleep(0.002)  # the next one dies in another millisecond
    found = await worker.dead_letters.list()
    assert [(letter.id, letter.queue) for letter in found] == list(zip(ids, "abab", strict=True))


async def test_fail_8_a_body_that_can_t_be_read(make, stranger, recorder):
    worker = make()
    log = Log()
    worker.observe(log)
    worker.register("note", recorder.note)
    await worker.start()
    for body in (b"", b"garbage", b"\xff\x00", b"[" * 100_000, b"{}"):
        await stranger.publish("q.default", body)
    await log.until("job_dead", 5)
    await worker.perform(Job("note"))
    await recorder.until_started(1)
    found = await worker.dead_letters.list()
    assert len({letter.id for letter in found}) == 5
    assert all("not a job envelope" in letter.error for letter in found)
    assert {(letter.handler, letter.args, letter.attempts) for letter in found} == {(None, None, 0)}
    ids = [letter.id for letter in found]
    assert sorted(await worker.dead_letters.discard(ids)) == sorted(ids)


async def test_an_error_as_long_as_a_book_and_in_all_tongues(make):
    worker = make()
    log = Log()
    worker.observe(log)
    text = "jürgen 💥 \x00 \ud800 " + "漢" * 1_000_000

    @worker.handler("fail")
    async def fail(args):
        raise Reject(text)

    await worker.start()
    job_id = await worker.perform(Job("fail"))
    await log.until("job_dead")
    letter = await worker.dead_letters.show(job_id)
    assert "jürgen 💥" in letter.error
    assert letter.traceback.rstrip().endswith("漢漢漢")


async def test_dur_6_a_job_that_kills_its_worker_is_buried(make, process, stranger):
    performer = make()
    job_id = await performer.perform(Job("die"))
    for attempt in (1, 2):
        # It may be dead before it is ready.
        async with process(max_attempts=2, ready=False) as victim:
            (started,) = await victim.until("started")
            assert (started["id"], started["attempt"]) == (job_id, attempt)
            await victim.wait()
    async with process(max_attempts=2) as survivor:
        await stranger.until("dead.default", ready=1)
        assert not [each for each in survivor.reports if each["event"] == "started"]
    (letter,) = await performer.dead_letters.list()
    assert (letter.id, letter.attempts) == (job_id, 2)
