"""DIST-4: the wire format is read for ever."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from offload.args import encode_args
from offload.envelope import NewerVersionError, UndecodableError, decode, encode

GOLDEN = Path(__file__).parent / "golden"
ARGS = {
    "user_id": 123,
    "tags": ["a", "é"],
    "score": -0.0,
    "big": 2**64 - 1,
    "none": None,
    "empty": {},
}


def test_version_1_is_written_as_it_was_released():
    body = encode(
        "01a20f8befae73b38ac9eb170a676165", "send_email", 1764020000123, encode_args(ARGS)
    )
    assert body == (GOLDEN / "v1.json").read_bytes()


@pytest.mark.parametrize("path", sorted(GOLDEN.iterdir()), ids=lambda path: path.stem)
def test_every_released_version_is_read(path):
    job = decode(path.read_bytes())
    assert (job.id, job.handler) == ("01a20f8befae73b38ac9eb170a676165", "send_email")
    assert job.enqueued_ms == 1764020000123
    assert job.args == ARGS
    assert list(job.args) == list(ARGS)
    assert math.copysign(1, job.args["score"]) == -1


def test_a_later_release_may_add_fields():
    job = decode(b'{"v":1,"id":"a","handler":"h","enqueued_ms":1,"args":{},"trace":"x"}')
    assert job.handler == "h"


def test_a_newer_version_is_told_apart_from_rubbish():
    with pytest.raises(NewerVersionError, match="version 2"):
        decode(b'{"v":2,"id":"a","handler":"h","enqueued_ms":1,"args":{}}')


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"\xff\xfe",
        b"[1]",
        b'{"v":1}',
        b'{"v":"1","id":"a","handler":"h","enqueued_ms":1,"args":{}}',
        b'{"v":1,"id":"a","handler":"h","enqueued_ms":1,"args":[]}',
        b'{"v":1,"id":"a","handler":"h","enqueued_ms":1,"args":{"a":NaN}}',
        b'{"v":1,"id":"a","handler":"h","enqueued_ms":1,"args":{"a":"\xed\xa0\x80"}}',
        b'{"v":1,"id":"a","handler":"h","enqueued_ms":1,"args":{}} trailing',
        b'{"a":' * 200_000,
        b"[" * 200_000,
    ],
    ids=range(12),
)
def test_rubbish(body):
    with pytest.raises(UndecodableError):
        decode(body)
