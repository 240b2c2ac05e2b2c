"""An entry: the text that stands for a job wherever it lies, `id attempts due body`."""

from __future__ import annotations

import re

import msgspec

from offload import Delivery, Failure


class Reason(msgspec.Struct, frozen=True):
    """Why a job is dead, as it is stored."""

    error: str = ""
    traceback: str = ""
    attempts: int = 0


_encode_reason = msgspec.json.Encoder().encode
_decode_reason = msgspec.json.Decoder(Reason).decode


# The same grammar as in common.lua.
_match_head = re.compile(rb"([A-Za-z0-9_.:-]{1,255}) ([0-9]{1,9}) (-?[0-9]{1,16}) ").match

EARLIEST_MS, LATEST_MS = -62_135_596_800_000, 253_402_300_799_999
"""The first and the last millisecond that a datetime can tell."""


def read_entry(entry: bytes, field: str) -> tuple[str, int, int, bytes]:
    """The id of what lies under this field, how many runs it had, its due time in ms, its body.

    A stranger's bytes are the body of a job that never ran.
    """
    head = _match_head(entry)
    if head is None or len(head[3]) > 16:
        return f"foreign-{field}", 0, 0, entry
    return head[1].decode(), int(head[2]), int(head[3]), entry[head.end() :]


def delivery_of(entry: bytes, queue: str, field: str) -> Delivery:
    """The next run of what lies under this field."""
    job_id, attempts, due, body = read_entry(entry, field)
    if not EARLIEST_MS <= due <= LATEST_MS:
        due = representable(due)
    return Delivery(job_id, queue, body, attempts + 1, due, field)


def representable(ms: float) -> int:
    """The instant in ms, or the nearest one that a datetime can tell; infinities too."""
    return int(min(max(ms, EARLIEST_MS), LATEST_MS))


def encode_reason(failure: Failure | None) -> bytes:
    """The bytes to keep beside a dead letter."""
    failure = failure or Failure("")
    return _encode_reason(
        Reason(_clean(failure.error), _clean(failure.traceback), failure.attempts)
    )


def _clean(text: str) -> str:
    """Without halves of surrogate pairs, which no UTF-8 can carry: an error may have any text."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def decode_reason(stored: bytes | None) -> Failure:
    """What `encode_reason` made of it; a stranger's bytes are no reason to fail."""
    try:
        reason = _decode_reason(stored or b"{}")
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return Failure("(the reason can't be read)")
    return Failure(reason.error, reason.traceback, reason.attempts)
