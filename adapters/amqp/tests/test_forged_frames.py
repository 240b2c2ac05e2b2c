"""Frames that no broker sends: the worker connects again if it must, and goes on."""

from __future__ import annotations

import asyncio
import os
import struct

import pytest
from support import DEADLINE

from offload import Job

END = b"\xce"
DELIVER = struct.pack(">HH", 60, 60)


def frame(kind: int, channel: int, payload: bytes, end: bytes = END) -> bytes:
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + end


def short(text: bytes) -> bytes:
    return bytes([len(text)]) + text


def deliver(tag: int, consumer: bytes = b"nobody") -> bytes:
    return frame(1, 1, DELIVER + short(consumer) + struct.pack(">Qb", tag, 0) + short(b"") * 2)


def header(size: int, flags: int = 0, properties: bytes = b"") -> bytes:
    return frame(2, 1, struct.pack(">HHQH", 60, 0, size, flags) + properties)


FORGED = {
    "noise": os.urandom(4000),
    "zeros": bytes(4000),
    "a frame without its end": frame(1, 1, DELIVER, b"\x00"),
    "a frame of four gigabytes": struct.pack(">BHI", 1, 1, 0xFFFFFFFF) + b"x" * 100,
    "an unknown kind of frame": frame(9, 1, b"what"),
    "an empty method": frame(1, 1, b""),
    "an unknown method": frame(1, 1, struct.pack(">HH", 60, 9999)),
    "an unknown class": frame(1, 1, struct.pack(">HH", 9999, 1) + b"x" * 50),
    "a channel that is not open": frame(1, 4242, DELIVER + short(b"c") + bytes(11)),
    "a delivery cut short": frame(1, 1, DELIVER + b"\xffabc"),
    "a header without a delivery": header(10),
    "a body without a header": frame(3, 1, b"body"),
    "two deliveries in a row": deliver(900) + deliver(901),
    "a body longer than announced": deliver(900) + header(3) + frame(3, 1, b"longer than that"),
    "a body of exabytes": deliver(900) + header(1 << 62) + frame(3, 1, b"begin"),
    "headers that are no table": deliver(900) + header(0, 0x2000, b"\xff\xff\xff\xffgarbage"),
    "headers of an unknown type": (
        deliver(900) + header(0, 0x2000, struct.pack(">I", 4) + b"\x01k?!")
    ),
    "all properties, and none there": deliver(900) + header(0, 0xFFFE),
    "an acknowledgement of what was never published": (
        frame(1, 1, struct.pack(">HHQB", 60, 80, 1 << 62, 1))
    ),
    "the end of every consumer": frame(
        1, 1, struct.pack(">HH", 60, 30) + short(b"nobody") + b"\x01"
    ),
    "a connection that is opened again": frame(1, 0, struct.pack(">HH", 10, 41) + b"\x00"),
    "the close of a channel": (
        frame(1, 1, struct.pack(">HHH", 20, 40, 541) + short(b"\xff\x1b[2J") + bytes(4))
    ),
    "the close of the connection": (
        frame(1, 0, struct.pack(">HHH", 10, 50, 320) + short(b"bye") + bytes(4))
    ),
    "that it is blocked, for no reason": frame(1, 0, struct.pack(">HH", 10, 60) + b"\xff"),
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED.keys())
async def test_a_forged_frame_costs_a_connection_at_most(make, wire, recorder, caplog, forged):
    worker, performer = make(wire.url, concurrency=4, lease="4s"), make()
    worker.register("note", recorder.note)
    await worker.start()
    ids = [await performer.perform(Job("note"))]
    await recorder.until_started(1)
    before = wire.accepted
    for _ in range(3):
        async with asyncio.timeout(DEADLINE):
            while not wire.forge_reply(forged):
                await asyncio.sleep(0.01)
        ids.append(await performer.perform(Job("note")))
        await recorder.until(lambda: ids[-1] in recorder.started_at)
    assert wire.accepted - before <= 6
    assert len(caplog.records) < 30
    assert all("\x1b" not in record.getMessage() for record in caplog.records)
    await worker.stop()
