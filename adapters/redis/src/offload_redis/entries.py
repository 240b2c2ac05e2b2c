"""An entry: the text that stands for a job wherever it lies, `id attempts due body`."""

from __future__ import annotations

import secrets

import msgspec

from offload import Delivery, Failure


class Reason(msgspec.Struct, frozen=True):
    """Why a job is dead, as it is stored."""

    error: str = ""
    traceback: str = ""
    attempts: int = 0


_encode_reason = msgspec.json.Encoder().encode
_decode_reason = msgspec.json.Decoder(Reason).decode


def read_entry(entry: bytes) -> tuple[str, int, int, bytes] | None:
    """Its id, how many runs it had, its due time in ms, and its body; None if it isn't one."""
    try:
        job_id, attempts, due, body = entry.split(b" ", 3)
        return job_id.decode(), int(attempts), int(due), body
    except ValueError:
        return None


def delivery_of(entry: bytes, queue: str, receipt: str) -> Delivery:
    """The next run of what lies here. A stranger's bytes get an id of their own."""
    read = read_entry(entry)
    if read is None:
        return Delivery(f"foreign-{secrets.token_hex(8)}", queue, entry, 1, 0, receipt)
    job_id, attempts, due, body = read
    return Delivery(job_id, queue, body, attempts + 1, due, receipt)


def encode_reason(failure: Failure | None) -> bytes:
    """The bytes to keep beside a dead letter."""
    failure = failure or Failure("")
    return _encode_reason(Reason(failure.error, failure.traceback, failure.attempts))


def decode_reason(stored: bytes | None) -> Failure:
    """What `encode_reason` made of it; a stranger's bytes are no reason to fail."""
    try:
        reason = _decode_reason(stored or b"{}")
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return Failure("(the reason can't be read)")
    return Failure(reason.error, reason.traceback, reason.attempts)
