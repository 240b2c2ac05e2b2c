"""A job as a message: its body is the envelope, its message id the job's, the rest in headers."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from typing import Any

from offload import Failure
from offload_amqp.wire import Incoming, Outgoing

RUNS = "offload-runs"
"""How many runs the job had before this message was published."""
DUE = "offload-due"
"""When it is due, in ms since the epoch, by the publisher's clock."""
HOLD = "offload-hold"
"""How many ms a worker has to hold it from receipt on."""
LATEST_MS = 253_402_300_799_999
"""The end of the year 9999, which is the last that a datetime knows."""
ERROR, TRACEBACK, DIED = "offload-error", "offload-traceback", "offload-died"

LONGEST_TEXT = 16_000
"""Characters of an error or a traceback."""
OTHER_BYTES = 1024
"""What else is in the frame of a message's headers takes less: they all must fit in one."""


@dataclass(slots=True)
class Message(Outgoing):
    """A message on its way to a queue of ours, that must be there for it to arrive."""

    queue: str
    level: int | None = None
    """The level of the ladder on which it begins."""


def now_ms() -> int:
    """The present, by this process's clock."""
    return time.time_ns() // 1_000_000


def failure_headers(failure: Failure | None, frame_max: int) -> dict[str, Any]:
    """Why a job is dead, within a frame of this size: the error's head, the traceback's tail."""
    failure = failure or Failure("")
    room = max(0, frame_max - OTHER_BYTES)
    error = failure.error[:LONGEST_TEXT].encode("utf-8", "backslashreplace")[: room // 2]
    trace = failure.traceback[-LONGEST_TEXT:].encode("utf-8", "backslashreplace")
    trace = trace[max(0, len(trace) - (room - len(error))) :]
    return {
        ERROR: error.decode(errors="ignore"),  # the last character may have been cut in two
        TRACEBACK: trace.decode(errors="ignore"),
        RUNS: failure.attempts,
        DIED: now_ms(),
    }


def number_in(headers: dict[str, Any], name: str) -> int:
    """A number of ours that is not negative; a stranger's value is none."""
    value = headers.get(name, 0)
    return value if type(value) is int and 0 <= value < 1 << 62 else 0


def due_in(headers: dict[str, Any]) -> int:
    """When a message says that it is due, in ms since the epoch; 0 if no clock can show that."""
    due_ms = number_in(headers, DUE)
    return due_ms if due_ms <= LATEST_MS else 0


def id_of(message: Incoming) -> str:
    """The job's id, or a lasting one for what another program has published without any."""
    return message.id or f"foreign-{hashlib.sha256(message.body).hexdigest()[:32]}"


def deliveries_before(message: Incoming) -> int:
    """How often a message was delivered before, and never settled."""
    # A quorum queue counts; a classic one knows only whether.
    return number_in(message.headers, "x-delivery-count") or int(message.is_redelivered)
