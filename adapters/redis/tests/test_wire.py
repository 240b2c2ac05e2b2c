"""What lies in the server: keys and bytes on which other programs may rely."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta

import pytest
from support import Log

from offload import Job, Reject, constant

SOON = constant(timedelta(milliseconds=30))


def envelope(job_id: str, args: str = "{}", handler: str = "note", v: int = 1) -> str:
    return f'{{"v":{v},"id":"{job_id}","handler":"{handler}","enqueued_ms":7,"args":{args}}}'


def now_ms() -> int:
    return time.time_ns() // 1_000_000


# -- what perform stores ---------------------------------------------------------


async def test_a_job_that_is_due_lies_in_ready(make, store, keys, space):
    before = now_ms()
    job_id = await make().perform(Job("send_email", {"to": "a@b.c", "n": 1}))
    (entry,) = store.lrange(f"{space}:{{default}}:ready", 0, -1)
    head, body = entry.split(b" {", 1)
    due, enqueued_ms = int(head.split()[2]), json.loads(b"{" + body)["enqueued_ms"]
    assert before <= due <= now_ms() and before <= enqueued_ms <= now_ms()
    assert entry.decode() == (
        f'{job_id} 0 {due} {{"v":1,"id":"{job_id}","handler":"send_email",'
        f'"enqueued_ms":{enqueued_ms},"args":{{"to":"a@b.c","n":1}}}}'
    )
    assert store.smembers(f"{space}:queues") == {b"default"}
    assert store.zrange(f"{space}:{{default}}:wake", 0, -1, withscores=True) == [(b"wake", 0.0)]


async def test_a_job_for_later_lies_under_its_due_time(make, store, keys):
    worker = make()
    at = datetime(2100, 1, 2, 3, 4, 5, 678_900, tzinfo=UTC)
    first = await worker.perform_at(Job("note"), at)
    before = now_ms()
    second = await worker.perform_in(Job("note"), 60)
    ((soon, soon_due), (late, late_due)) = store.zrange(keys.later, 0, -1, withscores=True)
    assert late_due == 4102542245679 and late.startswith(f"{first} 0 4102542245679 {{".encode())
    assert before + 60_000 < soon_due <= now_ms() + 60_001
    assert soon.startswith(f"{second} 0 {int(soon_due)} {{".encode())


async def test_the_number_of_the_last_call_is_forgotten(make, store, space):
    worker = make()
    for _ in range(3):
        await worker.perform(Job("note"))
    (key,) = store.keys(f"{space}:{{default}}:sent:*")
    assert store.get(key) == b"3"
    assert 3500 < store.ttl(key) <= 3600


async def test_nothing_but_the_name_of_the_queue_is_left_of_jobs_that_are_done(
    make, store, space, recorder
):
    worker = make()
    worker.register("note", recorder.note)
    await worker.start()
    await worker.perform_many([Job("note")] * 300)
    await recorder.until_started(300)
    await worker.stop()
    left = {key.decode() for key in store.keys(f"{space}:*")}
    assert {key for key in left if ":sent:" not in key and not key.endswith(":wake")} == {
        f"{space}:queues"
    }


async def test_a_running_job_is_filed_under_a_session_with_a_lease(make, store, keys, recorder):
    worker = make(lease="30s")
    worker.register("hold", recorder.hold)
    await worker.start()
    job_id = await worker.perform(Job("hold"))
    await recorder.until_started(1)
    ((field, entry),) = store.hgetall(keys.running).items()
    ((session, suspect_from),) = store.zrange(keys.leases, 0, -1, withscores=True)
    assert field == session + b".1" and entry.startswith(f"{job_id} 0 ".encode())
    assert now_ms() + 5_000 < suspect_from <= now_ms() + 15_000
    assert session.endswith(b"-30000")
    recorder.gate.set()


async def test_a_retry_lies_in_later_with_its_attempts(make, store, keys, recorder):
    worker = make()
    log = Log()
    worker.observe(log)
    worker.register("fail", recorder.failing(9), backoff=constant(timedelta(minutes=1)))
    await worker.start()
    before = now_ms()
    job_id = await worker.perform(Job("fail"))
    await log.until("job_retried")
    ((entry, due),) = store.zrange(keys.later, 0, -1, withscores=True)
    assert entry.startswith(f"{job_id} 1 {int(due)} {{".encode())
    assert before + 60_000 < due <= now_ms() + 60_001


async def test_a_dead_letter_is_kept_with_its_reason(make, store, keys, recorder):
    worker = make()
    log = Log()
    worker.observe(log)
    worker.register("fail", recorder.failing(9, lambda: Reject("no such user: jürgen")))
    await worker.start()
    before = now_ms()
    job_id = await worker.perform(Job("fail", {"a": [1]}))
    await log.until("job_dead")
    ((name, died),) = store.zrange(keys.dead, 0, -1, withscores=True)
    assert name == job_id.encode() and before <= died <= now_ms()
    body = envelope(job_id, '{"a":[1]}', "fail")
    kept = store.hget(keys.dead_jobs, job_id).decode()
    assert kept.replace(str(json.loads(kept.split(" ", 3)[3])["enqueued_ms"]), "7") == (
        f"{job_id} 0 {int(died)} {body}"
    )
    reason = json.loads(store.hget(keys.dead_reasons, job_id))
    assert set(reason) == {"error", "traceback", "attempts"} and reason["attempts"] == 1
    assert "no such user: jürgen" in reason["error"]


# -- what strangers store --------------------------------------------------------


async def test_an_entry_that_another_program_pushed_is_run(make, store, keys, recorder):
    worker = make()
    worker.register("note", recorder.note)
    await worker.start()
    body = envelope("job-1", '{"n": 1}')
    store.rpush(keys.ready, f"job-1 0 5 {body}")
    store.zadd(keys.wake, {"wake": 0})
    await recorder.until_started(1)
    (job,) = recorder.started
    assert (job.id, job.attempt, job.due_ms, job.enqueued_ms) == ("job-1", 1, 5, 7)
    assert recorder.args == [{"n": 1}]


async def test_a_plain_push_without_the_marker_is_found(make, store, keys, recorder):
    worker = make()
    worker.register("note", recorder.note)
    await worker.start()
    store.rpush(keys.ready, f"job-1 2 5 {envelope('job-1')}")
    await recorder.until_started(1)
    assert recorder.started[0].attempt == 3


async def test_an_entry_added_to_later_is_run_when_it_is_due(make, store, keys, recorder):
    worker = make()
    worker.register("note", recorder.note)
    await worker.start()
    due = now_ms() + 400
    store.zadd(keys.later, {f"job-1 0 {due} {envelope('job-1')}": due})
    store.zadd(keys.wake, {"wake": 0})
    await recorder.until_started(1)
    assert recorder.started[0].due_ms == due
    assert 0 <= recorder.started_at["job-1"] * 1000 - due < 1000


async def test_what_other_programs_hold_and_bury_is_ours_too(make, store, keys, space, recorder):
    """Any program that keeps the format may hold leases, die, and bury jobs."""
    store.sadd(f"{space}:queues", "default")
    store.hset(keys.running, "stranger.1", f"job-1 0 5 {envelope('job-1')}")
    store.zadd(keys.leases, {"stranger": now_ms() - 1})
    store.zadd(keys.dead, {"job-2": 99})
    store.hset(keys.dead_jobs, "job-2", "job-2 0 99 " + envelope("job-2", '{"x":0}'))
    store.hset(keys.dead_reasons, "job-2", "not JSON")
    worker = make()
    worker.register("note", recorder.note)
    (letter,) = await worker.dead_letters.list()
    assert (letter.id, letter.died_ms, letter.args) == ("job-2", 99, {"x": 0})
    assert letter.error == "(the reason can't be read)"
    await worker.start()
    await recorder.until_started(1)
    assert recorder.started[0].attempt == 2
    assert await worker.dead_letters.requeue(["job-2", "no-such"]) == ["job-2"]
    await recorder.until_started(2)
    assert recorder.started[1].id == "job-2" and recorder.started[1].attempt == 1


GARBAGE = [
    b"",
    b"x",
    b"a b c d",
    b"job 0 5 {}",
    b"job 0 5 \xff\xfe",
    b"job -1 5 {",
    b"job 0 -5 {",
    b"job 0 5 " + b'{"a":' * 50_000,
    b"job 99999999999999999999999999 0 {",
    b"1 " * 5000,
]


async def test_fail_8_garbage_is_dead_with_its_bytes_and_the_loop_lives_on(
    make, store, keys, recorder
):
    worker = make()
    log = Log()
    worker.observe(log)
    worker.register("note", recorder.note)
    await worker.start()
    for number, entry in enumerate(GARBAGE):
        store.rpush(keys.ready, entry.replace(b"job", b"job%d" % number))
    await worker.perform(Job("note"))
    await log.until("job_dead", len(GARBAGE))
    await recorder.until_started(1)
    letters = await worker.dead_letters.list()
    assert len(letters) == len(GARBAGE)
    assert all(letter.handler is None and letter.error for letter in letters)
    assert store.hlen(keys.running) == 0
    requeued = await worker.dead_letters.requeue([letter.id for letter in letters])
    assert sorted(requeued) == sorted(letter.id for letter in letters)
    await log.until("job_dead", 2 * len(GARBAGE))


async def test_a_dead_letter_whose_id_is_no_text_can_be_addressed(make, store, keys):
    worker = make()
    log = Log()
    worker.observe(log)
    await worker.start()
    store.rpush(keys.ready, b"\xff 0 5 {}")
    await log.until("job_dead")
    (letter,) = await worker.dead_letters.list()
    assert await worker.dead_letters.discard([letter.id]) == [letter.id]


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param(envelope("job-1", handler="fail"), id="an envelope without a head"),
        pytest.param(f"job-1 0 -5 {envelope('job-1', handler='fail')}", id="due before 1970"),
    ],
)
async def test_a_job_with_an_odd_head_is_not_lost_when_it_fails(make, store, keys, recorder, entry):
    """What a worker takes for a job and runs, it must be able to retry."""
    worker = make()
    worker.register("fail", recorder.failing(1), backoff=SOON)
    await worker.start()
    store.rpush(keys.ready, entry)
    await recorder.until_started(1)
    await recorder.until_started(2)


async def test_time_3_a_job_from_before_1970_is_retried(make, recorder):
    worker = make()
    worker.register("fail", recorder.failing(1), backoff=SOON)
    await worker.start()
    await worker.perform_at(Job("fail"), datetime(1969, 7, 20, tzinfo=UTC))
    await recorder.until_started(1)
    await recorder.until_started(2)


async def test_a_newer_envelope_without_a_head_waits_for_a_worker_that_knows_it(make, store, keys):
    worker = make()
    log = Log()
    worker.observe(log)
    await worker.start()
    store.rpush(keys.ready, envelope("new", v=2))
    await log.until("job_retried")
    assert (await worker.counts())["default"].scheduled == 1
