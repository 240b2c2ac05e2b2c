"""Whatever lies in a queue of dead letters is listed, shown, requeued and discarded as it is."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import aiormq
import pytest
from aiormq import spec
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import offload

# What is timed, and what keeps the broker busy, don't run at the same time.
pytestmark = pytest.mark.xdist_group("busy-broker")

NESTED = 600
"""So many tables in tables: more than a parser that calls itself can take."""


def nested(depth):
    """An error that is so many tables in each other."""
    table = {}
    for _ in range(depth):
        table = {"offload-error": table}
    return table


LAST_MS = 253_402_300_799_999
"""The end of the year 9999."""
instants = st.integers(0, LAST_MS // 1000).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))
values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**63 - 1),
        st.floats(width=32, allow_nan=False, allow_infinity=False),
        st.text(max_size=40),
        st.binary(max_size=40).map(bytearray),
        instants,
        st.sampled_from([LAST_MS, LAST_MS + 1, 1, 0, -1, "1", "", "0" * 5000]),
    ),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3)
    ),
    max_leaves=5,
)
deaths = st.lists(
    st.fixed_dictionaries({}, optional={"time": values, "reason": values, "count": values})
    | values,
    max_size=3,
)
headers = st.fixed_dictionaries(
    {},
    optional={
        **{f"offload-{name}": values for name in ("error", "traceback", "runs", "died", "due")},
        "x-death": deaths | values,
        "x-delivery-count": values,
        "x-first-death-reason": values,
        "other": values,
    },
)
names = st.one_of(
    st.none(),
    st.just(""),
    st.text(max_size=60),
    st.sampled_from(["twice", "a/b:c%d", "1" * 255, "\x1b[31m\n"]),
)
jobs = st.builds(
    lambda handler, args: json.dumps({"v": 1, "id": "1", "handler": handler, "args": args}),
    st.text(max_size=10),
    st.none() | st.dictionaries(st.text(max_size=5), st.integers()),
)
bodies = st.one_of(
    st.just(b""),
    st.binary(max_size=200),
    jobs.map(str.encode),
    st.sampled_from(
        [b"[" * 100_000, b"\xff\xfe", b"null", b'{"v":2}', b"1e999", b"\xef\xbb\xbf{}"]
    ),
)
properties = st.fixed_dictionaries(
    {"message_id": names, "headers": headers | st.integers(1, NESTED)},
    optional={
        "content_type": st.sampled_from(["", "text/plain", "application/json"]),
        "content_encoding": st.sampled_from(["gzip", ""]),
        "delivery_mode": st.sampled_from([1, 2]),
        "priority": st.integers(0, 9),
        "correlation_id": st.text(max_size=10),
        "timestamp": instants,
        "app_id": st.text(max_size=10),
    },
)  # fmt: skip
messages = st.tuples(bodies, properties)
DEEP = (b"deep", {"message_id": "deep", "headers": NESTED})
TWINS = (b"twin", {"message_id": "twin", "headers": {"offload-died": 7}})


class Queues:
    """The test's queues, as another program sees them."""

    def __init__(self, channel, space):
        self._channel = channel
        self.dead, self.work = f"{space}.dead.default", f"{space}.q.default"

    async def clear(self):
        for name in (self.dead, self.work):
            await self._channel.queue_purge(name)

    async def publish(self, poison):
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(10 * NESTED)  # for our own client
        try:
            for body, given in poison:
                headers = given["headers"]
                tables = nested(headers) if isinstance(headers, int) else headers
                await self._channel.basic_publish(
                    body,
                    routing_key=self.dead,
                    properties=spec.Basic.Properties(**{**given, "headers": tables}),
                    mandatory=True,
                )
        finally:
            sys.setrecursionlimit(limit)

    async def take_bodies(self):
        found = []
        while (message := await self._channel.basic_get(self.work, no_ack=True)).delivery_tag:
            found.append(message.body)
        return found


@asynccontextmanager
async def stranger_at(url, space):
    connection = await aiormq.connect(f"{url.replace('//', '//guest:guest@')}//")
    try:
        yield Queues(await connection.channel(), space)
    finally:
        await connection.close()


async def listed(letters, limit):
    found, after = [], None
    while page := await letters.list(limit, after):
        found += page
        after = page[-1].cursor
        assert len(found) < 100
    return found


async def check(worker, queues, poison):
    """Each is there once, whatever the page; it is shown, and goes where it is sent."""
    letters = worker.dead_letters
    await queues.clear()
    await queues.publish(poison)
    found = await letters.list(1000)
    assert len(found) == len(poison)
    assert await listed(letters, 1) == await listed(letters, 3) == found
    known = [letter.died_ms for letter in found if letter.died_ms]
    assert [letter.died_ms for letter in found[: len(known)]] == sorted(known)
    for letter in found:
        assert letter.id
        assert letter.died_at.year >= 1970
        assert isinstance(letter.error, str) and isinstance(letter.traceback, str)
        assert (await letters.show(letter.id)).id == letter.id
    ids = sorted({letter.id for letter in found})
    gone, kept = ids[::2], ids[1::2]
    assert sorted(await letters.requeue([*gone, *gone, "nobody"])) == gone
    left = await letters.list(1000)
    assert sorted({letter.id for letter in left}) == kept
    requeued = Counter(await queues.take_bodies())
    sent = Counter(body for body, _ in poison)
    assert requeued.keys() <= sent.keys()
    assert len(left) + requeued.total() <= len(poison)
    assert set(requeued) | await bodies_of(worker, queues, left) == set(sent)


async def bodies_of(worker, queues, left):
    """Requeue them all, and see what comes."""
    assert await worker.dead_letters.requeue_all() == len(left)
    return set(await queues.take_bodies())


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(messages, max_size=8))
@example([DEEP])
@example([DEEP, DEEP, TWINS, TWINS])
def test_fail_8_any_message_among_the_dead_letters(broker, space, poison):
    async def run():
        worker = offload.connect(f"{broker.url}?namespace={space}&grace=1s")
        try:
            async with stranger_at(broker.url, space) as queues:
                if not await worker.counts():
                    await worker.perform(offload.Job("note"))
                await check(worker, queues, poison)
        finally:
            await worker.stop()

    asyncio.run(run())


@pytest.mark.parametrize("command", [["list"], ["show", "twice"], ["requeue", "--all"]])
async def test_fail_8_the_command_line_says_what_it_is(make, broker, space, stranger, command):
    await make().perform(offload.Job("note"))
    async with stranger_at(broker.url, space) as queues:
        await queues.clear()
        await queues.publish(
            [
                DEEP,
                (b"\xff", {"message_id": "twice", "headers": {"offload-died": -1}}),
                (b"{}", {"message_id": "twice", "headers": {"offload-died": 1 << 62}}),
                (
                    b"",
                    {
                        "headers": {
                            "offload-error": ["\x1b[2J", bytearray(b"\xff")],
                            "offload-runs": "many",
                        }
                    },
                ),
            ]
        )
    verb, *more = command
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "offload", "dead", verb, f"{broker.url}?namespace={space}", *more),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    told = output.decode()
    assert {
        "list": told.count("(unreadable)") == 4,
        "show": "twice" in told and "can't be read" in told and "another program" in told,
        "requeue": told == "4 requeued\n",
    }[verb]


async def test_what_the_broker_has_given_up(make, broker, space, stranger):
    """It says why and when, though we have not buried it."""
    await make().perform(offload.Job("note"))
    async with stranger_at(broker.url, space) as queues:
        channel = queues._channel
        await queues.clear()
        await channel.basic_publish(b"x", routing_key=queues.work)
        while (await channel.queue_declare(queues.dead, passive=True)).message_count == 0:
            message = await channel.basic_get(queues.work)
            if message.delivery_tag:
                await channel.basic_nack(message.delivery_tag, requeue=True)
    (letter,) = await make().dead_letters.list()
    assert "the broker gave it up: it was delivered too often" in letter.error
    assert abs(datetime.now(UTC) - letter.died_at).total_seconds() < 60
