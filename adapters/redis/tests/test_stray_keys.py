"""Keys of ours that hold something else, and ids that nobody can type."""

from __future__ import annotations

import asyncio
from urllib.parse import unquote_to_bytes

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from redis.exceptions import ResponseError
from support import Log

from offload import Failure, Job, QueueCounts, Settlement, UsageError, Verdict
from offload_redis.entries import read_entry
from offload_redis.keys import QueueKeys
from offload_redis.scripts import _COMMON

OURS = ["ready", "later", "running", "leases", "numbers", "wake"]
DEAD = ["dead", "dead_jobs", "dead_reasons"]


def aside(store, key):
    (found,) = store.keys(f"*{key.replace('{', '?').replace('}', '?')}*:foreign-*")
    return found


# -- keys of another type --------------------------------------------------------


@pytest.mark.parametrize("name", [*OURS, *DEAD])
async def test_a_key_that_somebody_else_uses_is_put_aside(
    make, idle, store, keys, recorder, caplog, name
):
    key = getattr(keys, name)
    store.set(key, "mine")
    worker = make()
    worker.register("note", recorder.note)
    worker.register("fail", recorder.failing(1), max_attempts=1)
    assert await worker.counts() == {}
    assert await worker.dead_letters.list() == []
    await worker.start()
    await worker.perform_many([Job("note"), Job("fail")])
    await worker.perform_in(Job("note"), 0.01)
    await recorder.until_started(3)
    await idle(worker, dead=1)
    found = aside(store, key)
    assert store.get(found) == b"mine"
    (line,) = [each.message for each in caplog.records if "renamed" in each.message]
    assert key in line and found.decode() in line


@pytest.mark.parametrize("name", ["ready", "later", "dead", "dead_jobs", "dead_reasons"])
@pytest.mark.parametrize("verdict", [Verdict.RELEASE, Verdict.RETRY, Verdict.DEAD_LETTER])
async def test_no_job_is_lost_whose_new_place_is_somebody_elses(
    make, store, keys, recorder, name, verdict
):
    """A script that ends halfway is not undone: what it moves must not be gone by then."""
    worker = make()
    await worker.perform(Job("note"))
    subscription = await worker._driver.subscribe(["default"])
    (delivery,) = (await subscription.fetch(1)).deliveries
    store.delete(getattr(keys, name))
    store.set(getattr(keys, name), "mine")
    settlement = Settlement(delivery, verdict, 60_000 * (verdict is Verdict.RETRY), Failure("x"))
    assert not await subscription.settle([settlement])
    counts = (await worker.counts())["default"]
    assert counts in (QueueCounts(waiting=1), QueueCounts(scheduled=1), QueueCounts(dead=1))
    await subscription.close()


async def test_a_perform_that_meets_a_stray_key_stores_once(make, store, keys):
    """Nothing is stored before what must fail, since the call comes again."""
    worker = make()
    await worker.perform(Job("note", queue="other"))
    for name in ("ready", "later", "wake"):
        store.delete(getattr(keys, name))
        store.set(getattr(keys, name), "mine")
        await worker.perform_many([Job("note")] * 2)
        await asyncio.gather(worker.perform_in(Job("note"), 60), worker.perform(Job("note")))
    assert (await worker.counts())["default"] in (
        QueueCounts(waiting=6, scheduled=2),  # two of each were put aside with their key
        QueueCounts(waiting=6, scheduled=3),
        QueueCounts(waiting=9, scheduled=2),
    )


async def test_the_set_of_queues_is_somebody_elses(make, store, space, recorder):
    store.set(f"{space}:queues", "mine")
    worker = make()
    worker.register("note", recorder.note)
    assert await worker.counts() == {}
    await worker.start()
    await worker.perform(Job("note"))
    await recorder.until_started(1)
    assert store.smembers(f"{space}:queues") == {b"default"}
    assert store.get(aside(store, f"{space}:queues")) == b"mine"


async def test_one_queue_that_cannot_be_read_holds_up_no_other(
    make, store, space, recorder, caplog
):
    """What is not a matter of types: here, a script is refused for one queue's keys."""
    worker = make(queues="default,other")
    worker.register("note", recorder.note)
    await worker.start()
    subscription = worker._dispatcher.subscription
    original = subscription._fetching.run_each

    async def refused(calls, **options):
        replies = await original(calls, **options)
        return [
            ResponseError("odd") if "{default}" in call.keys[0] else reply
            for call, reply in zip(calls, replies, strict=True)
        ]

    subscription._fetching.run_each = refused
    for number in range(3):
        await worker.perform(Job("note", queue="other"))
        await recorder.until_started(number + 1)
    lines = [each for each in caplog.records if "can't be fetched" in each.message]
    assert len(lines) == 1


@pytest.mark.parametrize("last", ["x", "", "nan", "inf", "1e999", "99999", "1.5", "-7", "9" * 5000])
async def test_a_performer_whose_number_was_overwritten_loses_nothing(
    make, store, keys, space, last
):
    worker = make()
    await worker.perform(Job("note"))
    (key,) = store.keys(f"{space}:{{default}}:sent:*")
    store.set(key, last)
    await worker.perform_many([Job("note")] * 250)
    store.delete(key)
    store.rpush(key, "mine")
    for _ in range(3):
        await worker.perform(Job("note"))
    assert (await worker.counts())["default"].waiting == 254


@pytest.mark.parametrize("number", ["x", "", "nan", "inf", "1e999", "70", "5000000", "1.5", "-7"])
async def test_a_worker_whose_number_was_overwritten_goes_on(
    make, idle, store, keys, recorder, number
):
    worker = make()
    worker.register("note", recorder.note)
    await worker.start()
    await worker.perform(Job("note"))
    await recorder.until_started(1)
    ((session, _),) = store.zrange(keys.leases, 0, -1, withscores=True)
    store.hset(keys.numbers, session, number)
    await worker.perform_many([Job("note")] * 3)
    await recorder.until_started(4)
    await idle(worker)
    assert len({job.id for job in recorder.started}) == 4


# -- the names of queues ---------------------------------------------------------


@pytest.mark.parametrize(
    "name", [b"\xff\xfe", b"", b"a b", b"x" * 121, b"x" * 1_000_000, b"a:b", b"{x}", b"\x00", b"\n"]
)
async def test_a_name_that_no_queue_can_have(make, idle, store, space, recorder, name):
    store.sadd(f"{space}:queues", name)
    worker = make()
    worker.register("fail", recorder.failing(1), max_attempts=1)
    await worker.start()
    job_id = await worker.perform(Job("fail"))
    await idle(worker, dead=1)
    (letter,) = await worker.dead_letters.list()
    assert letter.id == job_id
    assert await worker.dead_letters.requeue([job_id]) == [job_id]


# -- dead letters ----------------------------------------------------------------

IDS = [
    b"",
    b"\xff\xfe",
    b"a b",
    b"raw:41",
    b"long:1",
    b"%41",
    b"\x00\n",
    b"\xed\xa0\x80",
    b"y" * 256,
]


@pytest.mark.parametrize("job_id", [*IDS, b"z" * 1_000_000], ids=range(len(IDS) + 1))
async def test_a_dead_letter_with_an_odd_id_is_shown_requeued_and_discarded(
    make, idle, store, keys, recorder, job_id
):
    worker = make()
    body = b'{"v":1,"id":"a","handler":"note","enqueued_ms":7,"args":{"n":1}}'
    worker.register("note", recorder.note)
    for turn in ("requeue", "discard"):
        store.zadd(keys.dead, {job_id: 5})
        store.hset(keys.dead_jobs, job_id, b"a 0 5 " + body)
        (letter,) = await worker.dead_letters.list()
        assert (letter.args, letter.died_ms, len(letter.id) < 800) == ({"n": 1}, 5, True)
        letter.id.encode()
        assert (await worker.dead_letters.show(letter.id)).id == letter.id
        assert await getattr(worker.dead_letters, turn)([letter.id]) == [letter.id]
        assert await worker.dead_letters.list() == []
    await worker.start()
    await recorder.until_started(1)
    await idle(worker)


@pytest.mark.parametrize(
    "score", ["inf", "-inf", "1e300", "-1e300", "9e18", "-1", "0.5", "253402300800000"]
)
async def test_a_dead_letter_of_an_odd_time(make, store, keys, score):
    worker = make()
    store.zadd(keys.dead, {"odd": score, "good": 5})
    letters = await worker.dead_letters.list()
    assert {letter.id for letter in letters} == {"odd", "good"}
    assert all(letter.died_at for letter in letters)
    after, seen = None, []
    while page := await worker.dead_letters.list(limit=1, after=after):
        seen.append(page[0].id)
        after = page[0].cursor
    assert sorted(seen) == ["good", "odd"]


@pytest.mark.parametrize(
    "reason",
    [b"", b"\xff", b"{", b"[]", b"null", b'{"attempts":' + b"9" * 5000 + b"}", b'{"error":5}',
     b'{"x":' + b"[" * 100_000, b"[" * 100_000, b'{"error":"\\ud800"}', b"x" * 1_000_000],
    ids=range(11),
)  # fmt: skip
async def test_a_dead_letter_with_an_odd_reason(make, store, keys, reason):
    worker = make()
    store.zadd(keys.dead, {"odd": 5})
    store.hset(keys.dead_reasons, "odd", reason)
    (letter,) = await worker.dead_letters.list()
    assert letter.id == "odd"


@pytest.mark.parametrize("part", ["dead", "dead_jobs", "dead_reasons"])
async def test_half_a_dead_letter_is_one(make, idle, store, keys, caplog, part):
    if part == "dead":
        store.zadd(keys.dead, {"half": 5})
    else:
        store.hset(getattr(keys, part), "half", "half 0 5 {}")
    worker = make()
    await worker.start()
    await idle(worker, dead=1)
    (letter,) = await worker.dead_letters.list()
    assert letter.id == "half"
    assert (await worker.dead_letters.show("half")).id == "half"
    assert await worker.dead_letters.discard(["half"]) == ["half"]
    assert not store.exists(keys.dead, keys.dead_jobs, keys.dead_reasons)


async def test_two_jobs_with_one_id_are_two_dead_letters(make, store, keys):
    worker = make()
    log = Log()
    worker.observe(log)
    store.rpush(keys.ready, "twin 0 5 one", "twin 0 5 two")
    await worker.start()
    await log.until("job_dead", 2)
    bodies = {read_entry(entry, "")[3] for entry in store.hvals(keys.dead_jobs)}
    assert bodies == {b"one", b"two"}


async def test_dead_4_a_page_begins_behind_a_place_that_is_empty(make, store, keys, space):
    """In every order of ids, whatever the server's locale: that of bytes."""
    other = QueueKeys(space, "other", "")
    store.sadd(f"{space}:queues", "default", "other")
    ids = [
        b"A",
        b"a",
        b"B",
        b"b",
        b"_",
        b"-",
        b"\xff",
        b"",
        b"a b",
        *(b"%d" % n for n in range(120)),
    ]
    for number, job_id in enumerate(ids):
        for where in (keys, other):
            store.zadd(where.dead, {job_id: number // 70})
    worker = make()
    seen, after = [], None
    while page := await worker.dead_letters.list(limit=7, after=after):
        seen += [(letter.queue, letter.id) for letter in page]
        after = page[-1].cursor
        where = keys if page[-1].queue == "default" else other
        assert store.zrem(where.dead, unquote_to_bytes(page[-1].id.removeprefix("raw:"))) == 1
    assert len(seen) == len(set(seen)) == 2 * len(ids)


@pytest.mark.parametrize(
    "cursor", ["", "x", "5", "5:", "5:default", "5:default:", "nan:q:a", ":::", "a:b:c"]
)
async def test_another_cursor_is_refused(make, cursor):
    with pytest.raises(UsageError, match="is not the cursor"):
        await make().dead_letters.list(after=cursor)


async def test_a_long_page_comes_in_parts(make, store, keys):
    store.zadd(keys.dead, {f"id-{n:04}": n for n in range(450)})
    letters = await make().dead_letters.list(limit=1_000_000)
    assert [letter.id for letter in letters] == [f"id-{n:04}" for n in range(450)]


# -- one grammar -----------------------------------------------------------------

heads = st.tuples(
    st.sampled_from(["job", "", "j b", "j\n", "é", "x" * 255, "x" * 256, "a.b:c_d-e", "a/b"]),
    st.sampled_from(["0", "", "-1", "+1", "999999999", "1000000000", "1e5", "٣", "9" * 30, "1.0"]),
    st.sampled_from(
        ["5", "-5", "--5", "", "9" * 16, "9" * 17, "-" + "9" * 15, "-" + "9" * 16, "0x1"]
    ),
    st.binary(max_size=9),
).map(lambda parts: " ".join(parts[:3]).encode() + b" " + parts[3])


@given(entry=heads | st.binary(max_size=40))
def test_lua_and_python_read_an_entry_alike(server, entry):
    source = _COMMON + "local a, b, c, d = read(ARGV[1], 'f'); return {a, tostring(b), c, d}"
    with redis.Redis(port=server.port) as client:
        in_lua = client.eval(source, 0, entry)
    job_id, attempts, due, body = read_entry(entry, "f")
    assert in_lua[0] == job_id.encode()
    assert (int(in_lua[1]), int(in_lua[2]), in_lua[3]) == (attempts, due, body)


async def test_an_entry_is_as_readable_after_a_crash_as_before(make, idle, store, keys, recorder):
    """The counts and times of strangers, at the ends of what is read."""
    worker = make()
    worker.register("note", recorder.note)
    body = '{"v":1,"id":"a","handler":"note","enqueued_ms":7,"args":{}}'
    heads = ["a 999999999 5", "b 0 9999999999999999", "c 0 -999999999999999"]
    for number, head in enumerate(heads):
        store.hset(keys.running, f"ghost.{number}", f"{head} {body}")
    await worker.start()
    await recorder.until_started(2)
    await idle(worker, dead=1)
    assert {job.id for job in recorder.started} == {"b", "c"}
    assert all(job.due_at for job in recorder.started)
    (letter,) = await worker.dead_letters.list()
    assert letter.id == "a"
    assert "attempt 4 of 4 never ended" in letter.error
