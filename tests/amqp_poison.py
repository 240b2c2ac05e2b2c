"""Messages that no program of ours would publish, sent byte by byte."""

from __future__ import annotations

import asyncio
import contextlib
import random
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pamqp import commands, frame
from support import DEADLINE

HEADERS_AND_ID = 0b0010_0000_1000_0000


@dataclass(frozen=True)
class Poison:
    """A message: its id, its table of headers as it is on the wire, and its body."""

    id: bytes
    headers: bytes
    body: bytes


def short(text: bytes) -> bytes:
    """A short string."""
    return bytes((len(text),)) + text


def sized(data: bytes) -> bytes:
    """Anything that has its length in front: a long string, a table, an array."""
    return struct.pack(">I", len(data)) + data


def entry(name: bytes, value: bytes) -> bytes:
    """One header; the value has its type in front."""
    return short(name) + value


def nested(depth: int) -> bytes:
    """A table in a table, so many times."""
    inside = b""
    for _ in range(depth):
        inside = entry(b"t", b"F" + sized(inside))
    return inside


class Poisoner:
    """Draws poison of every AMQP type of field."""

    NAMES = (
        *(b"offload-runs", b"offload-due", b"offload-hold", b"offload-error", b"offload-died"),
        *(b"offload-traceback", b"x-delivery-count", b"x-death", b"x-first-death-queue", b"note"),
        *(b"\xff\xfe", b"", b"n" * 127),
    )
    BODIES = (b"", b"{", b"\xff\x00", b"null", b"[]", b'{"v":1}', b"{" * 5000, b"x" * 200_000)

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def _number(self, size: int) -> bytes:
        edges = (b"\0" * size, b"\xff" * size, b"\x7f" + b"\xff" * (size - 1))
        return self._random.choice((*edges, self._random.randbytes(size)))

    def value(self, depth: int = 0) -> bytes:
        """A value with its type in front."""
        draw = self._random
        kind = draw.choice(b"tbBsuIilfdDSxTVFA" if depth < 4 else b"tbBIlSxTV")
        one = bytes((kind,))
        if one in b"FA":
            values = [self.value(depth + 1) for _ in range(draw.randrange(4))]
            names = [draw.choice(self.NAMES) for _ in values]
            parts = values if one == b"A" else map(entry, names, values)
            return one + sized(b"".join(parts))
        if one in b"Sx":
            return one + sized(draw.choice((b"", b"text", b"\xc3\x28\xff", draw.randbytes(300))))
        if one in b"fd":  # Erlang refuses what is no number
            return one + struct.pack(">f" if one == b"f" else ">d", draw.choice((0.0, -1.5, 1e30)))
        sizes = {b"t": 1, b"b": 1, b"B": 1, b"s": 2, b"u": 2, b"I": 4, b"i": 4, b"D": 5}
        return one + self._number(0 if one == b"V" else sizes.get(one, 8))

    def one(self, number: int, envelope: bytes) -> Poison:
        """A message, with `envelope` as its body now and then."""
        draw = self._random
        count = draw.choice((0, 1, 3, 8, 300))
        headers = b"".join(entry(draw.choice(self.NAMES), self.value()) for _ in range(count))
        name = draw.choice((b"%d", b"\xff\xfe%d", b"\x1b[31m%d", b"%d" + b"i" * 240)) % number
        body = envelope if draw.random() < 0.4 else draw.choice(self.BODIES)
        return Poison(name, headers if len(headers) < 120_000 else b"", body)


class RefusedError(Exception):
    """The broker itself can't read it, so that nobody will ever have to."""


async def publish_some(port: int, queue: str, messages: Sequence[Poison]) -> int:
    """Publish those of these that the broker takes; return how many it took."""
    taken = 0
    for each in messages:
        with contextlib.suppress(RefusedError, ConnectionError, asyncio.IncompleteReadError):
            await publish(port, queue, [each])
            taken += 1
    return taken


async def publish(port: int, queue: str, messages: Sequence[Poison]) -> None:
    """Publish these, and return when the broker has them.

    Raises:
        RefusedError: it can't read one of them.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(DEADLINE):
            await _publish(reader, writer, queue, messages)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def _publish(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    queue: str,
    messages: Sequence[Poison],
) -> None:
    writer.write(b"AMQP\x00\x00\x09\x01")

    async def until(kind: type[Any]) -> Any:
        while True:
            head = await reader.readexactly(7)
            rest = await reader.readexactly(int.from_bytes(head[3:], "big") + 1)
            _, _, found = frame.unmarshal(head + rest)
            if isinstance(found, commands.Connection.Close | commands.Channel.Close):
                raise RefusedError(found.reply_text)
            if isinstance(found, kind):
                return found

    def send(method: Any, channel: int = 0) -> None:
        writer.write(frame.marshal(method, channel))

    await until(commands.Connection.Start)
    send(commands.Connection.StartOk({}, "PLAIN", "\0guest\0guest"))
    tune = await until(commands.Connection.Tune)
    send(commands.Connection.TuneOk(tune.channel_max, tune.frame_max, 0))
    send(commands.Connection.Open("/"))
    await until(commands.Connection.OpenOk)
    send(commands.Channel.Open(), 1)
    send(commands.Confirm.Select(), 1)
    await until(commands.Confirm.SelectOk)
    for each in messages:
        send(commands.Basic.Publish(exchange="", routing_key=queue), 1)
        start = struct.pack(">HHQH", 60, 0, len(each.body), HEADERS_AND_ID)
        header = start + sized(each.headers) + short(each.id)
        writer.write(struct.pack(">BHI", 2, 1, len(header)) + header + b"\xce")
        for at in range(0, len(each.body), 100_000):
            piece = each.body[at : at + 100_000]
            writer.write(struct.pack(">BHI", 3, 1, len(piece)) + piece + b"\xce")
        await writer.drain()
    confirmed = 0
    while confirmed < len(messages):
        ack = await until(commands.Basic.Ack)
        confirmed = ack.delivery_tag if ack.multiple else confirmed + 1
