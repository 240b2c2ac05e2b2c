"""The wire format: what a backend stores for a job, opaque to it. Versioned, JSON, documented.

    {"v":1,"id":"…","handler":"send_email","enqueued_ms":1764020000123,"args":{…}}

The queue, the attempt and the due time are the backend's to keep, since they
change without the job changing. Every version that was ever released is read
for ever (DIST-4); `core/tests/golden` holds bytes of each.
"""

from __future__ import annotations

from typing import Any

import msgspec

VERSION = 1


class Envelope(msgspec.Struct, frozen=True):
    """A decoded job."""

    v: int
    id: str
    handler: str
    enqueued_ms: int
    args: dict[str, Any]


class _Outgoing(msgspec.Struct, frozen=True):
    """An envelope whose args are already bytes; its fields in the order of `Envelope`."""

    v: int
    id: str
    handler: str
    enqueued_ms: int
    args: msgspec.Raw


class UndecodableError(ValueError):
    """These bytes are no envelope of any version."""


class NewerVersionError(ValueError):
    """An envelope of a later release: another worker may read it."""


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Envelope).decode


def encode(job_id: str, handler: str, enqueued_ms: int, args: bytes) -> bytes:
    """The bytes to store for a job whose args `encode_args` made."""
    return _encode(_Outgoing(VERSION, job_id, handler, enqueued_ms, msgspec.Raw(args)))


def decode(body: bytes) -> Envelope:
    """The job in these bytes.

    Raises:
        NewerVersionError: a version this release doesn't know.
        UndecodableError: not an envelope at all (FAIL-8).
    """
    try:
        envelope = _decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UndecodableError(f"not a job envelope: {error}") from None
    if envelope.v != VERSION:
        raise NewerVersionError(
            f"wire version {envelope.v} is not known here; this release reads {VERSION}"
        )
    return envelope
