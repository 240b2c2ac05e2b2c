"""What strangers leave under our keys: one entry's problem each, and shown as what it is."""

from __future__ import annotations

import asyncio
import logging
import secrets
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import fakeredis
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import DEADLINE

import offload
from offload import Job, QueueCounts, constant
from offload_redis.entries import read_entry
from offload_redis.keys import QueueKeys

LONG_LINE = 4000
"""No line of the log is longer, whatever lies there."""


def envelope(job_id: str, handler: str = "note") -> str:
    return f'{{"v":1,"id":"{job_id}","handler":"{handler}","enqueued_ms":7,"args":{{}}}}'


# -- the generator ---------------------------------------------------------------

ODD_TEXTS = [
    b"",
    b" ",
    b"x",
    b"\xff\xfe",
    b"\x00",
    b"a b c d",
    b"job 0 5 ",
    b"job  0 5 {}",
    b"job 0 5 {}",
    b"job -1 5 {}",
    b"job 0 -5 {}",
    b"job 999999999 5 {}",
    b"job 9999999999 5 {}",
    b"job 0 9999999999999999 {}",
    b"job 0 99999999999999999 {}",
    b"job 0 -999999999999999 {}",
    b"job " + b"9" * 5000 + b" 5 {}",
    b"job 0 " + b"9" * 5000 + b" {}",
    b"\xff 0 5 {}",
    b"j\xc3\xb6b 0 5 {}",
    b"j" * 300 + b" 0 5 {}",
    b"j" * 1_000_000 + b" 0 5 {}",
    b"job 0 5 " + b'{"a":' * 50_000,
    b'job 0 5 {"v":1e999,"id":"job"}',
    b"\x1b[2J\r\n",
    b"9" * 5000,
    b"x" * 1_000_000,
]
texts = st.sampled_from(ODD_TEXTS) | st.binary(max_size=60)

ODD_FIELDS = [
    *(b"", b".", b".5", b"a.", b"x", b"ghost.1", b"ghost.-1", b"ghost.1e5", b"ghost.01"),
    *(b"\xff.\xff", b"\x00", b"a b.1", b"ghost." + b"9" * 5000, b"x" * 100_000, b"gh.ost.7"),
]
fields = st.sampled_from(ODD_FIELDS) | st.binary(max_size=30)

ODD_IDS = [b"", b"x", b"raw:41", b"long:1", b"\xff\xfe", b"a b", b"%41", b"\x00", b"y" * 1_000_000]
ids = st.sampled_from(ODD_IDS) | st.binary(max_size=30)

PAST_SCORES = ["-inf", "-1e300", "-1", "0", "1.5", "99"]
FAR_SCORES = ["inf", "1e300", "9e18"]
past = st.sampled_from(PAST_SCORES)
scores = st.sampled_from([*PAST_SCORES, *FAR_SCORES])

ODD_NUMBERS = [b"", b"x", b"inf", b"-inf", b"nan", b"1e999", b"-5", b"1.5", b"9" * 5000, b"99"]

TYPES = ["string", "list", "set", "zset", "hash", "stream"]
KEYS = {
    **dict.fromkeys(["ready"], "list"),
    **dict.fromkeys(["later", "leases", "wake", "dead"], "zset"),
    **dict.fromkeys(["running", "numbers", "dead_jobs", "dead_reasons"], "hash"),
}


@dataclass
class Poison:
    """What lies there before any worker comes."""

    ready: list[bytes] = field(default_factory=list)
    later: dict[bytes, str] = field(default_factory=dict)
    running: dict[bytes, bytes] = field(default_factory=dict)
    leases: dict[bytes, str] = field(default_factory=dict)
    numbers: dict[bytes, bytes] = field(default_factory=dict)
    wake: dict[bytes, str] = field(default_factory=dict)
    dead: dict[bytes, str] = field(default_factory=dict)
    dead_jobs: dict[bytes, bytes] = field(default_factory=dict)
    dead_reasons: dict[bytes, bytes] = field(default_factory=dict)
    queues: set[bytes] = field(default_factory=set)
    strays: dict[str, str] = field(default_factory=dict)
    """Keys that are of this type, which isn't ours."""
    stray_names: str | None = None
    """The type of the set of queues, if it is another."""


some = {"max_size": 4}
poisons = st.builds(
    Poison,
    ready=st.lists(texts, **some),
    later=st.dictionaries(texts, scores, **some),
    running=st.dictionaries(fields, texts, **some),
    leases=st.dictionaries(fields, scores, **some),
    numbers=st.dictionaries(fields, st.sampled_from(ODD_NUMBERS), **some),
    wake=st.dictionaries(texts, scores, **some),
    dead=st.dictionaries(ids, scores, **some),
    dead_jobs=st.dictionaries(ids, texts, **some),
    dead_reasons=st.dictionaries(ids, texts, **some),
    queues=st.sets(texts, **some),
    strays=st.dictionaries(st.sampled_from(list(KEYS)), st.sampled_from(TYPES), max_size=3),
    stray_names=st.none() | st.sampled_from([kind for kind in TYPES if kind != "set"]),
)


def store_stray(client: redis.Redis, key: str, kind: str) -> None:
    client.delete(key)
    {
        "string": lambda: client.set(key, "mine"),
        "list": lambda: client.rpush(key, "mine"),
        "set": lambda: client.sadd(key, "mine"),
        "zset": lambda: client.zadd(key, {"mine": 1}),
        "hash": lambda: client.hset(key, "mine", "1"),
        "stream": lambda: client.xadd(key, {"mine": "1"}),
    }[kind]()


def spread(client: redis.Redis, keys: QueueKeys, names: str, poison: Poison) -> None:
    """Put it there."""
    if poison.ready:
        client.rpush(keys.ready, *poison.ready)
    for name in ("later", "leases", "wake", "dead"):
        if members := getattr(poison, name):
            client.zadd(getattr(keys, name), members)
    for name in ("running", "numbers", "dead_jobs", "dead_reasons"):
        if members := getattr(poison, name):
            client.hset(getattr(keys, name), mapping=members)
    if poison.queues:
        client.sadd(names, *poison.queues)
    for name, kind in poison.strays.items():
        if kind != KEYS[name]:
            store_stray(client, getattr(keys, name), kind)
    if poison.stray_names:
        store_stray(client, names, poison.stray_names)


# -- the property ----------------------------------------------------------------


class Lines(logging.Handler):
    """Every line that is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


async def survive(url: str, client: redis.Redis, space: str, poison: Poison) -> None:
    """Run a worker on it: every job runs, every look works, all that is dead can be discarded."""
    keys = QueueKeys(space, "default", "")
    spread(client, keys, f"{space}:queues", poison)
    worker = offload.connect(f"{url}?namespace={space}&queues=default,other&lease=1s&grace=1s")
    runs: list[str] = []
    ran = asyncio.Event()

    @worker.handler("note", max_attempts=2, backoff=constant(timedelta(milliseconds=1)))
    async def note(args):
        runs.append(offload.current_job().id)
        ran.set()

    wanted = []
    for queue in ("default", "other"):
        wanted += await worker.perform_many([Job("note", {}, queue)] * 3)
        wanted.append(await worker.perform_in(Job("note", {}, queue), 0.02))
    await look(worker)
    async with asyncio.timeout(DEADLINE), worker:
        while not set(runs) >= set(wanted):
            ran.clear()
            await ran.wait()
        counts = (await worker.counts()).get("default", QueueCounts())
        while counts.waiting or counts.running or counts.scheduled != len(far_off(poison)):
            await asyncio.sleep(0.02)
            counts = (await worker.counts()).get("default", QueueCounts())
        kept = {read_entry(entry, "")[3] for entry in client.hvals(keys.dead_jobs)}
        assert kept >= {read_entry(entry, "")[3] for entry in due(poison)}
        shown = await look(worker)
        assert len(shown) == (await worker.counts()).get("default", QueueCounts()).dead
        assert await worker.dead_letters.discard(shown) == shown
        assert await look(worker) == []
    assert sorted(runs) == sorted(wanted)


def far_off(poison: Poison) -> list[bytes]:
    return [entry for entry, score in there(poison, "later").items() if score in FAR_SCORES]


def due(poison: Poison) -> list[bytes]:
    """What must be taken for a job, and buried."""
    soon = [entry for entry, score in there(poison, "later").items() if score not in FAR_SCORES]
    return [*soon, *there(poison, "ready"), *there(poison, "running").values()]


def there(poison: Poison, name: str) -> Any:
    """What of this key is not replaced by a stray one."""
    content = getattr(poison, name)
    return type(content)() if poison.strays.get(name, KEYS[name]) != KEYS[name] else content


async def look(worker: offload.Worker) -> list[str]:
    """Every dead letter, page by page."""
    await worker.counts()
    seen: list[str] = []
    after = None
    while page := await worker.dead_letters.list(limit=2, after=after):
        for letter in page:
            assert letter.died_at is not None
            letter.id.encode()
            shown = await worker.dead_letters.show(letter.id)
            assert shown is not None
            assert shown.id == letter.id
            seen.append(letter.id)
        after = page[-1].cursor
        assert len(seen) == len(set(seen)), "a page begins behind the one before"
    return seen


def survives(url: str, client: redis.Redis, poison: Poison) -> None:
    lines = Lines()
    log = logging.getLogger("offload")
    log.addHandler(lines)
    try:
        asyncio.run(survive(url, client, f"test-{secrets.token_hex(6)}", poison))
    finally:
        log.removeHandler(lines)
    assert all(len(line) < LONG_LINE for line in lines.lines)


def fake_client(name: str) -> redis.Redis:
    shared = fakeredis.FakeServer.get_server(name, version=(7,), server_type="redis")
    return fakeredis.FakeRedis(server=shared)


thorough = settings(
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@thorough
@given(poison=poisons)
def test_fail_8_every_job_runs_whatever_else_lies_there(server, store, poison):
    survives(server.url, store, poison)


@thorough
@given(poison=poisons)
def test_fail_8_every_job_runs_on_the_fake_whatever_else_lies_there(poison):
    name = secrets.token_hex(6)
    survives(f"redis+fake://{name}", fake_client(name), poison)
