"""Bytes of every wire version of Offload that was released, as they were written."""

from __future__ import annotations

ARGS = {
    "user_id": 123,
    "tags": ["a", "é"],
    "score": -0.5,
    "big": 2**64 - 1,
    "none": None,
    "empty": {},
}
"""The args of each."""

GOLDEN = {
    "1": (
        '{"v":1,"id":"01a20f8befae73b38ac9eb170a676165","handler":"golden",'
        '"enqueued_ms":1764020000123,"args":{"user_id":123,"tags":["a","é"],"score":-0.5,'
        '"big":18446744073709551615,"none":null,"empty":{}}}'
    ).encode(),
}
"""By version: bytes that are never changed (DIST-4)."""
