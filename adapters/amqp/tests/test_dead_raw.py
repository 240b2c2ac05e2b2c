"""Dead letters with headers that no client of ours writes: all types of fields, broken text."""

from __future__ import annotations

import struct

import pytest
from pamqp import commands, frame

from offload import Job
from offload.config import parse_address
from offload_amqp.connection import Broker
from offload_amqp.options import config_of

HEADERS, MESSAGE_ID = 1 << 13, 1 << 7


def short(data: bytes) -> bytes:
    return bytes((len(data),)) + data


def long(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


FIELDS = {
    "true": b"t\x01",
    "int8": b"b\x80",
    "uint8": b"B\xff",
    "int16": b"s\x80\x00",
    "uint16": b"u\xff\xff",
    "int32": b"I\x80\x00\x00\x00",
    "uint32": b"i\xff\xff\xff\xff",
    "int64": b"l" + b"\x7f" + 7 * b"\xff",
    "negative int64": b"l" + b"\x80" + 7 * b"\x00",
    "float": b"f" + struct.pack(">f", 1e38),
    "double": b"d" + struct.pack(">d", 1e308),
    "decimal": b"D\x02\x00\x00\x00\x07",
    "decimal of 255 places": b"D\xff\xff\xff\xff\xff",
    "no text": b"S" + long(b""),
    "text that is no UTF-8": b"S" + long(b"\xff\xfe\x80"),
    "text with NUL and escapes": b"S" + long(b"\x00\x1b[2J\n"),
    "bytes": b"x" + long(b"\xff\xfe"),
    "timestamp 0": b"T" + 8 * b"\x00",
    "timestamp beyond all years": b"T" + b"\x7f" + 7 * b"\xff",
    "timestamp of 64 bits": b"T" + 8 * b"\xff",
    "nothing": b"V",
    "empty table": b"F" + long(b""),
    "table with a name that is no UTF-8": b"F" + long(short(b"\xff") + b"V"),
    "empty list": b"A" + long(b""),
    "list of lists": b"A" + long(b"A" + long(b"A" + long(b"V"))),
}
IDS = {"plain": b"plain", "none": None, "no UTF-8": b"\xff\xfe", "NUL": b"\x00", "long": 255 * b"i"}


@pytest.fixture
async def publish_raw(broker, space):
    """Publishes a message among the dead letters, with headers and an id of any bytes."""
    name = f"{space}.dead.default"
    connection = await Broker(config_of(parse_address(broker.url))).connect()
    channel = await connection.open_channel()

    async def publish_raw(fields: dict[bytes, bytes], message_id: bytes | None, body: bytes):
        flags = HEADERS | (MESSAGE_ID if message_id is not None else 0)
        table = long(b"".join(short(key) + field for key, field in fields.items()))
        head = struct.pack(">HHQH", 60, 0, len(body), flags) + table
        head += short(message_id) if message_id is not None else b""
        publish = frame.marshal(commands.Basic.Publish(routing_key=name, mandatory=True), 1)
        parts = [struct.pack(">BHI", kind, 1, len(data)) + data + b"\xce" for kind, data in
                 ((2, head), (3, body))]  # fmt: skip
        connection.write(publish + b"".join(parts))
        await channel.look(name)

    yield publish_raw
    await connection.close(1)


async def check(worker, bodies):
    """Each is listed, shown and requeued, however often it was looked at before."""
    letters = worker.dead_letters
    for _ in range(3):
        found = await letters.list()
        assert len(found) == len(bodies)
    for letter in found:
        assert letter.died_at.year >= 1970
        assert (await letters.show(letter.id)).id == letter.id
    assert len(await letters.requeue([found[0].id])) == 1
    assert await letters.requeue_all() == len(bodies) - 1
    assert list(await letters.list()) == []


@pytest.mark.parametrize("field", FIELDS.values(), ids=FIELDS)
async def test_fail_8_fields_of_any_type(make, publish_raw, stranger, field):
    worker = make()
    await worker.perform(Job("note"))
    await stranger.take("q.default")
    bodies = []
    for key in (b"offload-error", b"offload-died", b"offload-runs", b"x-death", b"\xff"):
        bodies.append(b"body " + key)
        await publish_raw({key: field, b"offload-traceback": field}, b"id " + key[:9], bodies[-1])
    await stranger.until("dead.default", ready=len(bodies))
    await check(worker, bodies)
    taken = await stranger.take("q.default", len(bodies))
    assert sorted(message.body for message in taken) == sorted(bodies)


async def test_fail_8_ids_of_any_bytes(make, publish_raw, stranger):
    worker = make()
    await worker.perform(Job("note"))
    await stranger.take("q.default")
    bodies = [b"body of " + name.encode() for name in IDS]
    for body, message_id in zip(bodies, IDS.values(), strict=True):
        await publish_raw({}, message_id, body)
    await stranger.until("dead.default", ready=len(bodies))
    await check(worker, bodies)
    taken = await stranger.take("q.default", len(bodies))
    assert sorted(message.body for message in taken) == sorted(bodies)
