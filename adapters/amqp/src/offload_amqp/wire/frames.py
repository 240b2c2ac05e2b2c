"""Frames to bytes and back; those that come with every message are packed by hand.

pamqp takes some 20 microseconds for the three frames of a message, which is
most of what a message costs.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from pamqp import commands, decode, encode, frame, heartbeat
from pamqp.base import Frame
from pamqp.exceptions import UnmarshalingException
from pamqp.header import ContentHeader

from offload_amqp.wire.errors import LostError
from offload_amqp.wire.messages import Headers, Outgoing

PROTOCOL = b"AMQP\x00\x00\x09\x01"
METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
FRAME_END = 0xCE
FRAME_MAX = 131072
"""Bytes of a frame at most; RabbitMQ's own default."""
OVERHEAD = 8
"""Bytes of a frame around what it carries."""

# The first four bytes of a method: its class, and its number in it.
DELIVER, RETURN, GET_OK = b"\x00\x3c\x00\x3c", b"\x00\x3c\x00\x32", b"\x00\x3c\x00\x47"
ACK, NACK = b"\x00\x3c\x00\x50", b"\x00\x3c\x00\x78"

HEARTBEAT_FRAME = heartbeat.Heartbeat().marshal()

_START = struct.Struct(">BHI")
_TAG = struct.Struct(">Q")
_TAG_AND_FLAG = struct.Struct(">QB")
_CONTENT = struct.Struct(">HHQH")
_ACK_FRAME = struct.Struct(">BHI4sQBB")
_CONTENT_TYPE = b"\x10application/json"
_PERSISTENT = b"\x02"
_BASIC = commands.Basic.frame_id
# Content type, headers, delivery mode and message id, as bits of the list of properties.
_OURS = 0b1011_0000_1000_0000


class Splitter:
    """Cuts what arrives into frames."""

    def __init__(self) -> None:
        self._rest = b""

    def split(self, data: bytes) -> Iterator[tuple[int, int, bytes]]:
        """Kind, channel and payload of each frame that is whole now.

        Raises:
            LostError: that is not AMQP.
        """
        if self._rest:
            data = self._rest + data
        start, size_of_all = 0, len(data)
        while size_of_all - start >= OVERHEAD:
            kind, channel, size = _START.unpack_from(data, start)
            if size > FRAME_MAX:
                raise LostError("what answers there doesn't speak AMQP 0-9-1")
            end = start + size + OVERHEAD
            if end > size_of_all:
                break
            if data[end - 1] != FRAME_END:
                raise LostError("a frame doesn't end where it should")
            yield kind, channel, data[start + 7 : end - 1]
            start = end
        self._rest = data[start:]


def method_frame(method: Frame, channel: int) -> bytes:
    """The frame of a method."""
    return frame.marshal(method, channel)


def read_method(payload: bytes) -> Frame:
    """The method in a frame.

    Raises:
        LostError: there is no such method, or it can't be read.
    """
    try:
        method: Frame = commands.INDEX_MAPPING[int.from_bytes(payload[:4], "big")]()
        method.unmarshal(payload[4:])
    except (KeyError, struct.error, ValueError, IndexError, UnmarshalingException) as error:
        raise LostError(f"a frame can't be read: {error!r}") from error
    return method


@lru_cache(maxsize=1024)
def _publish_frame(exchange: str, key: str, channel: int) -> bytes:
    method = commands.Basic.Publish(exchange=exchange, routing_key=key, mandatory=True)
    return method_frame(method, channel)


def publish_frames(message: Outgoing, channel: int, frame_max: int) -> bytes:
    """All frames of a message."""
    body, message_id = message.body, message.id.encode()
    header = b"".join(
        (
            _CONTENT.pack(_BASIC, 0, len(body), _OURS),
            _CONTENT_TYPE,
            encode.field_table(message.headers),
            _PERSISTENT,
            bytes((len(message_id),)),
            message_id,
        )
    )
    parts = [
        _publish_frame(message.exchange, message.key, channel),
        *(_START.pack(HEADER, channel, len(header)), header, b"\xce"),
    ]
    most = frame_max - OVERHEAD
    for start in range(0, len(body), most):
        piece = body[start : start + most]
        parts += (_START.pack(BODY, channel, len(piece)), piece, b"\xce")
    return b"".join(parts)


def acknowledge_frame(channel: int, tag: int, *, multiple: bool) -> bytes:
    """The frame that acknowledges a message, or all up to it."""
    return _ACK_FRAME.pack(METHOD, channel, 13, ACK, tag, multiple, FRAME_END)


def read_tag(payload: bytes) -> tuple[int, bool]:
    """Tag and first flag of an ack or a nack."""
    tag, flags = _TAG_AND_FLAG.unpack_from(payload, 4)
    return tag, bool(flags & 1)


def read_deliver(payload: bytes) -> tuple[bytes, int, bool]:
    """Consumer tag, delivery tag, and whether it was delivered before."""
    end = 5 + payload[4]
    tag, is_redelivered = _TAG_AND_FLAG.unpack_from(payload, end)
    return payload[5:end], tag, bool(is_redelivered)


def read_header(payload: bytes) -> tuple[int, str, Headers]:
    """Size of the body, message id and headers; those last are empty if they can't be read."""
    _, _, size, flags = _CONTENT.unpack_from(payload)
    try:
        if flags != _OURS:
            return size, *_properties(payload)
        at = _CONTENT.size
        at += 1 + payload[at]  # the content type
        used, headers = decode.field_table(payload[at:])
        at += used + 1  # and the delivery mode
        return size, payload[at + 1 : at + 1 + payload[at]].decode(), headers
    except Exception:  # whatever it is, it is the matter of this message alone
        return size, "", {}


def _properties(payload: bytes) -> tuple[str, Headers]:
    """Those that we use, of a message that another program has published."""
    header = ContentHeader()
    header.unmarshal(payload)
    properties: Any = header.properties
    return properties.message_id or "", properties.headers or {}
