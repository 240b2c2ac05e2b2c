"""The frames that are packed by hand, against pamqp's reading of them; and any cut of a stream."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import commands, frame
from pamqp.body import ContentBody
from pamqp.header import ContentHeader

from offload_amqp.wire import LostError, Outgoing
from offload_amqp.wire.frames import (
    FRAME_MAX,
    Splitter,
    acknowledge_frame,
    publish_frames,
    read_deliver,
    read_header,
    read_tag,
)

NAMES = st.text(max_size=60)
HEADERS = st.dictionaries(
    st.text(min_size=1, max_size=20), st.integers(0, 2**62) | st.text(max_size=50), max_size=4
)
EXCHANGES = st.from_regex(r"[a-zA-Z0-9_.-]{0,60}", fullmatch=True)
MESSAGES = st.builds(
    Outgoing, exchange=EXCHANGES, key=NAMES, id=NAMES, headers=HEADERS, body=st.binary(max_size=300)
)


def frames_in(data: bytes) -> list:
    """All frames in these bytes, as pamqp reads them."""
    found = []
    while data:
        size, channel, each = frame.unmarshal(data)
        found.append((channel, each))
        data = data[size:]
    return found


@given(message=MESSAGES, channel=st.integers(1, 65535))
def test_a_publish_is_what_pamqp_reads(message, channel):
    found = frames_in(publish_frames(message, channel, FRAME_MAX))
    assert {number for number, _ in found} == {channel}
    publish, header, *bodies = (each for _, each in found)
    assert isinstance(publish, commands.Basic.Publish)
    assert (publish.exchange, publish.routing_key) == (message.exchange, message.key)
    assert publish.mandatory
    assert isinstance(header, ContentHeader)
    properties = header.properties
    assert (properties.message_id, properties.headers) == (message.id, message.headers)
    assert (properties.delivery_mode, properties.content_type) == (2, "application/json")
    assert header.body_size == len(message.body)
    assert b"".join(each.value for each in bodies) == message.body


@given(size=st.integers(0, 5000), frame_max=st.integers(64, 5000))
def test_a_long_body_goes_in_pieces(size, frame_max):
    message = Outgoing("", "q", "i", {}, bytes(size))
    _, _, *bodies = frames_in(publish_frames(message, 1, frame_max))
    pieces = [each.value for _, each in bodies]
    assert all(isinstance(each, ContentBody) for _, each in bodies)
    assert b"".join(pieces) == message.body
    assert all(0 < len(piece) + 8 <= frame_max for piece in pieces)


@given(messages=st.lists(MESSAGES, max_size=4), cuts=st.lists(st.integers(0, 3000), max_size=20))
def test_a_stream_may_be_cut_anywhere(messages, cuts):
    stream = b"".join(publish_frames(each, 1, FRAME_MAX) for each in messages)
    splitter = Splitter()
    edges = sorted({0, len(stream), *(min(cut, len(stream)) for cut in cuts)})
    pieces = [stream[start:end] for start, end in pairwise(edges)]
    found = [each for piece in pieces for each in splitter.split(piece)]
    assert found == list(Splitter().split(stream))


@pytest.mark.parametrize(
    "stranger",
    [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x01\x00\x01\x00\x00\x00\x01AB", b"\xff" * 8],
)
def test_what_is_no_amqp_is_refused(stranger):
    with pytest.raises(LostError):
        list(Splitter().split(stranger))


@given(tag=st.integers(1, 2**63 - 1), is_multiple=st.booleans(), channel=st.integers(1, 65535))
def test_acknowledgements(tag, is_multiple, channel):
    data = acknowledge_frame(channel, tag, multiple=is_multiple)
    ((number, ack),) = frames_in(data)
    assert (number, ack.delivery_tag, ack.multiple) == (channel, tag, is_multiple)
    ((_, _, payload),) = Splitter().split(data)
    assert read_tag(payload) == (tag, is_multiple)


@given(consumer=NAMES, tag=st.integers(1, 2**63 - 1), again=st.booleans(), key=NAMES)
def test_deliveries(consumer, tag, again, key):
    deliver = commands.Basic.Deliver(consumer, tag, again, "an exchange", key)
    ((_, _, payload),) = Splitter().split(frame.marshal(deliver, 7))
    assert read_deliver(payload) == (consumer.encode(), tag, again)


@given(
    headers=HEADERS,
    message_id=st.none() | NAMES,
    content_type=st.none() | NAMES,
    priority=st.none() | st.integers(0, 9),
    kind=st.none() | NAMES,
)
def test_properties_of_any_program(headers, message_id, content_type, priority, kind):
    properties = commands.Basic.Properties(
        headers=headers,
        message_id=message_id,
        content_type=content_type,
        priority=priority,
        message_type=kind,
    )
    ((_, _, payload),) = Splitter().split(frame.marshal(ContentHeader(0, 12, properties), 1))
    assert read_header(payload) == (12, message_id or "", headers)


@given(rubbish=st.binary(max_size=80))
def test_properties_that_cant_be_read_are_as_none(rubbish):
    """The message is taken all the same: it must not stand in the way of the others."""
    start = (60).to_bytes(2, "big") + bytes(2) + (5).to_bytes(8, "big")
    size, _, _ = read_header(start + b"\xb0\x80" + rubbish)
    assert size == 5
