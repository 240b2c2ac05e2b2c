"""What lies on the broker: names, arguments and messages on which other programs may rely."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta

import aiormq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import Log

from offload import BackendError, Job, Reject, constant
from offload_amqp.names import LEVELS, Names, first_level, ladder_key
from offload_amqp.topology import Binding, Exchange, Queue, Topology

YEARS = timedelta(days=8 * 365)


def envelope(job_id: str, args: str = "{}", handler: str = "note", v: int = 1) -> bytes:
    text = f'{{"v":{v},"id":"{job_id}","handler":"{handler}","enqueued_ms":7,"args":{args}}}'
    return text.encode()


def now_ms() -> int:
    return time.time_ns() // 1_000_000


# -- the ladder, on paper --------------------------------------------------------


def matches(pattern: str, key: str) -> bool:
    """Whether a topic exchange takes this key by that pattern."""
    first, _, rest = pattern.partition(".")
    if first == "#":
        tails = [key.split(".", n)[-1] for n in range(key.count(".") + 1)]
        return not rest or any(matches(rest, tail) for tail in tails)
    word, _, others = key.partition(".")
    if first not in ("*", word):
        return False
    if not rest or not others:
        return rest in ("", "#") and (not others or bool(rest))
    return matches(rest, others)


def walk(seconds: int, queue: str, queues: tuple[str, ...]) -> tuple[int, list[str]]:
    """Send a delay down the ladder: how long it is held, and in which queues it ends."""
    names = Names("ns")
    topology = Topology(names, "quorum")
    key = ladder_key(seconds, queue)
    held = 0
    for level in range(first_level(seconds), -1, -1):
        parts = topology.of_level(level)
        ways = [part for part in parts if isinstance(part, Binding) and matches(part.key, key)]
        assert len(ways) == 1
        (holder,) = [part for part in parts if isinstance(part, Queue)]
        if ways[0].to_exchange:
            assert ways[0].to == holder.arguments["x-dead-letter-exchange"]
        else:
            held += holder.arguments["x-message-ttl"]
    ends = [part for each in queues for part in topology.of_queue(each)]
    return held, [part.to for part in ends if isinstance(part, Binding) and matches(part.key, key)]


@given(st.integers(1, 2**LEVELS - 1))
def test_the_levels_that_hold_a_delay_sum_up_to_it(seconds):
    assert walk(seconds, "jobs", ("jobs",)) == (seconds * 1000, ["ns.soon.jobs"])


@pytest.mark.parametrize("seconds", [1, 2, 3, 4, 2**27, 2**LEVELS - 1])
def test_the_edges_of_the_ladder(seconds):
    assert walk(seconds, "jobs", ("jobs",)) == (seconds * 1000, ["ns.soon.jobs"])


@pytest.mark.parametrize("queue", ["1", "0", "a", "b-a", "A", "_", "x" * 120])
def test_no_queue_gets_what_is_for_another(queue):
    others = ("1", "0", "a", "b-a", "A", "_", "x" * 120)
    assert walk(5, queue, others)[1] == [f"ns.soon.{queue}"]


def test_names_fit_in_what_amqp_allows():
    names, longest = Names("n" * 120), "q" * 120
    all_names = [names.work(longest), names.soon(longest), names.dead(longest), names.due]
    all_names += [names.delay(level) for level in range(LEVELS)]
    assert len({*all_names}) == len(all_names)
    assert max(map(len, [*all_names, ladder_key(2**LEVELS - 1, longest)])) <= 255


def test_what_is_declared_is_declared_bottom_up():
    """Nothing is bound to what is not there yet."""
    topology = Topology(Names("ns"), "quorum")
    there: set[str] = set()
    parts = topology.of_queue("jobs")
    for level in range(LEVELS):
        parts = [*parts, *topology.of_level(level)]
    for part in parts:
        if isinstance(part, Exchange | Queue):
            there.add(part.name)
        else:
            assert part.exchange in there and part.to in there


# -- what is declared ------------------------------------------------------------

SAFE = {"dead_letter_strategy": "at-least-once", "overflow": "reject-publish"}


async def test_queues_have_the_documented_arguments(make, stranger, space):
    worker = make()
    await worker.start()
    await worker.perform_in(Job("note"), 3600)
    quorum = {"queue_type": "quorum"}
    to_dead = {"dead_letter_exchange": "", "dead_letter_routing_key": f"{space}.dead.default"}
    await stranger.declare("dead.default", **quorum, delivery_limit=1_000_000_000)
    for name in ("q.default", "soon.default"):
        await stranger.declare(name, **quorum, **to_dead, delivery_limit=100)
    for level in range(12):
        below = f"{space}.delay.{level - 1}" if level else f"{space}.due"
        arguments = {"dead_letter_exchange": below, "message_ttl": 1000 * 2**level}
        await stranger.declare(f"delay.{level}", **quorum, **arguments, **SAFE)
    with pytest.raises(aiormq.exceptions.ChannelPreconditionFailed):
        await stranger.declare("q.default", **quorum, **to_dead, delivery_limit=99)


async def test_classic_queues(make, stranger, space, recorder):
    worker = make(queue_type="classic")
    worker.register("note", recorder.note)
    await worker.start()
    await worker.perform(Job("note"))
    await worker.perform_in(Job("note"), 2.1)
    classic = {"queue_type": "classic"}
    dead = f"{space}.dead.default"
    await stranger.declare(
        "q.default", **classic, dead_letter_exchange="", dead_letter_routing_key=dead
    )
    await recorder.until_started(2)


async def test_the_longest_delay_is_accepted(make, stranger):
    """And 28 levels are there."""
    worker = make(timeout="30s")
    await worker.perform_in(Job("note"), YEARS)
    await stranger.until(f"delay.{LEVELS - 1}", ready=1)
    (message,) = await stranger.take(f"delay.{LEVELS - 1}")
    assert len(message.delivery.routing_key) == 2 * LEVELS + len("default")


@pytest.mark.parametrize("what", ["start", "perform"])
async def test_a_queue_that_is_another_than_it_should_be(make, stranger, what):
    await stranger.declare("q.default", queue_type="classic")
    worker = make()
    began = time.monotonic()
    with pytest.raises(BackendError, match=r"another than is wanted.*Delete it") as caught:
        await (worker.start() if what == "start" else worker.perform(Job("note")))
    assert type(caught.value) is BackendError
    assert time.monotonic() - began < 5
    await stranger.delete("q.default")
    await (worker.start() if what == "start" else worker.perform(Job("note")))


# -- what is published -----------------------------------------------------------


async def test_a_job_that_is_due_lies_in_its_queue(make, stranger, space):
    before = now_ms()
    job_id = await make().perform(Job("send_email", {"to": "a@b.c", "n": 1}))
    (message,) = await stranger.take("q.default")
    properties = message.header.properties
    due = properties.headers.pop("offload-due")
    assert before <= due <= now_ms()
    del properties.headers["x-delivery-count"]  # the broker's own
    assert properties.headers == {"offload-runs": 0}
    assert properties.message_id == job_id
    assert (properties.delivery_mode, properties.content_type) == (2, "application/json")
    body = json.loads(message.body)
    assert before <= body.pop("enqueued_ms") <= now_ms()
    args = {"to": "a@b.c", "n": 1}
    assert body == {"v": 1, "id": job_id, "handler": "send_email", "args": args}


async def test_a_job_that_is_due_soon_lies_where_a_worker_holds_it(make, stranger):
    before = now_ms()
    job_id = await make().perform_in(Job("note"), 1.5)
    (message,) = await stranger.take("soon.default")
    headers = message.header.properties.headers
    assert message.header.properties.delivery_mode == 2
    assert before + 1500 <= headers["offload-due"] <= now_ms() + 1501
    assert (message.header.properties.message_id, headers["offload-hold"]) == (job_id, 1501)


async def test_a_job_for_later_lies_on_the_ladder(make, stranger):
    job_id = await make().perform_in(Job("note"), 10.25)
    (message,) = await stranger.take("delay.3")
    headers = message.header.properties.headers
    assert (message.header.properties.message_id, headers["offload-hold"]) == (job_id, 1251)
    assert message.delivery.routing_key == "0." * 24 + "1.0.0.1.default"


async def test_perform_at_keeps_the_instant(make, stranger):
    at = datetime.fromtimestamp((now_ms() + 3_600_000) / 1000, UTC)
    await make().perform_at(Job("note"), at)
    (message,) = await stranger.take("delay.11")
    due = message.header.properties.headers["offload-due"]
    assert 0 <= due - at.timestamp() * 1000 <= 2


async def test_a_retry_lies_on_the_ladder_with_its_runs(make, stranger, recorder):
    worker = make()
    log = Log()
    worker.observe(log)
    worker.register("fail", recorder.failing(9), backoff=constant(timedelta(minutes=1)))
    await worker.start()
    job_id = await worker.perform(Job("fail"))
    await log.until("job_retried")
    (message,) = await stranger.take("delay.5")
    headers = message.header.properties.headers
    assert (message.header.properties.message_id, headers["offload-runs"]) == (job_id, 1)
    assert not any("death" in name for name in headers)


async def test_a_dead_letter_is_kept_with_its_reason(make, stranger, recorder):
    worker = make()
    log = Log()
    worker.observe(log)
    worker.register("fail", recorder.failing(9, lambda: Reject("no such user: jürgen")))
    await worker.start()
    before = now_ms()
    job_id = await worker.perform(Job("fail", {"a": [1]}))
    await log.until("job_dead")
    (message,) = await stranger.take("dead.default")
    headers = message.header.properties.headers
    assert message.header.properties.delivery_mode == 2
    assert (message.header.properties.message_id, headers["offload-runs"]) == (job_id, 1)
    assert before <= headers["offload-died"] <= now_ms()
    assert "no such user: jürgen" in headers["offload-error"]
    assert "offload-traceback" in headers
    assert json.loads(message.body)["args"] == {"a": [1]}


# -- what strangers publish ------------------------------------------------------


async def test_a_plain_publish_of_an_envelope_is_run(make, stranger, recorder, drained):
    worker = make()
    worker.register("note", recorder.note)
    await worker.start()
    await stranger.publish("q.default", envelope("job-1", '{"n": 1}'))
    await recorder.until_started(1)
    (job,) = recorder.started
    assert (job.attempt, job.enqueued_ms) == (1, 7)
    assert recorder.args == [{"n": 1}]
    await drained(worker)


@pytest.mark.parametrize(
    "headers",
    [
        {"offload-runs": "many", "offload-due": -1},
        {"offload-runs": -1, "offload-due": [1]},
        {"offload-runs": True, "offload-due": None},
        {"x-delivery-count": "7", "offload-hold": {"a": 1}},
    ],
)
async def test_headers_of_the_wrong_type_are_as_none(make, stranger, recorder, headers, drained):
    worker = make()
    worker.register("note", recorder.note)
    await worker.start()
    await stranger.publish("q.default", envelope("job-1"), headers=headers)
    await stranger.publish("soon.default", envelope("job-2"), headers=headers)
    await recorder.until_started(2)
    assert [job.attempt for job in recorder.started] == [1, 1]
    await drained(worker)


async def test_runs_that_another_program_counted(make, stranger, recorder):
    worker = make()
    log = Log()
    worker.observe(log)
    worker.register("note", recorder.note)
    await worker.start()
    await stranger.publish("q.default", envelope("job-1"), headers={"offload-runs": 2})
    await stranger.publish("q.default", envelope("job-2"), headers={"offload-runs": 2**61})
    await log.until("job_dead")
    await recorder.until_started(1)
    assert [job.attempt for job in recorder.started] == [3]
