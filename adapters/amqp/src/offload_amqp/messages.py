"""A job as a message: its body is the envelope, the rest is in headers."""

from __future__ import annotations

import hashlib
import secrets
import time
from dataclasses import dataclass
from typing import Any

from aiormq import spec
from aiormq.abc import DeliveredMessage

from offload import Delivery, Failure

ID = "offload-id"
RUNS = "offload-runs"
"""How many runs the job had before this message was published."""
DUE = "offload-due"
"""When it is due, in ms since the epoch, by the publisher's clock."""
HOLD = "offload-hold"
"""How many ms a worker has to hold it from receipt on."""
ERROR, TRACEBACK, DIED = "offload-error", "offload-traceback", "offload-died"

LONGEST_TEXT = 16_000
"""Characters of an error or a traceback: all headers must fit in one frame."""


@dataclass(slots=True)
class Message:
    """What is published, and where."""

    exchange: str
    key: str
    body: bytes
    headers: dict[str, Any]
    queue: str
    """Ours, that must be there for it to arrive."""
    level: int | None = None
    """The level of the ladder on which it begins."""

    def properties(self) -> spec.Basic.Properties:
        """Those of AMQP; the client numbers each publish by an id of its own."""
        return spec.Basic.Properties(
            content_type="application/json",
            delivery_mode=2,
            message_id=secrets.token_hex(16),
            headers=self.headers,
        )


def now_ms() -> int:
    """The present, by this process's clock."""
    return time.time_ns() // 1_000_000


def headers_of(job_id: str, runs: int, due_ms: int) -> dict[str, Any]:
    """The headers of a job that is ready. Longs, which all clients can read."""
    return {ID: job_id, RUNS: runs, DUE: due_ms}


def failure_headers(failure: Failure | None) -> dict[str, Any]:
    """Why a job is dead."""
    failure = failure or Failure("")
    return {
        ERROR: failure.error[:LONGEST_TEXT],
        TRACEBACK: failure.traceback[-LONGEST_TEXT:],
        RUNS: failure.attempts,
        DIED: now_ms(),
    }


def headers_in(message: DeliveredMessage) -> dict[str, Any]:
    """The headers of a message, whoever sent it."""
    return message.header.properties.headers or {}


def number_in(headers: dict[str, Any], name: str) -> int:
    """A number of ours that is not negative; a stranger's value is none."""
    value = headers.get(name, 0)
    return value if type(value) is int and 0 <= value < 1 << 62 else 0


def delivery_of(message: DeliveredMessage, queue: str, receipt: Any) -> Delivery:
    """The next run of what is in a message. One that was never settled counts as a run."""
    headers = headers_in(message)
    job_id = headers.get(ID)
    if not isinstance(job_id, str) or not job_id:
        digest = hashlib.sha256(message.body).hexdigest()[:32]
        job_id = f"foreign-{message.header.properties.message_id or digest}"
    # A quorum queue counts how often it had to deliver again; a classic one knows only whether.
    again = number_in(headers, "x-delivery-count") or int(bool(message.redelivered))
    attempt = number_in(headers, RUNS) + again + 1
    due_ms = number_in(headers, DUE)
    return Delivery(job_id, queue, message.body, attempt, due_ms, receipt)
