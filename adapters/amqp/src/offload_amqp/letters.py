"""A message in a queue of dead letters, read as one, whatever program put it there."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from offload import Failure
from offload_amqp.messages import DIED, ERROR, RUNS, TRACEBACK, number_in

LATEST_MS = 253_402_300_799_999
"""The last millisecond of the year 9999."""


def died_in(headers: dict[str, Any]) -> int | None:
    """When a letter died, in ms since the epoch; None if nothing credible tells."""
    died = headers.get(DIED)
    if died is None:
        died = _given_up(headers).get("time")
    if isinstance(died, datetime):
        died = int(died.timestamp() * 1000)
    return died if type(died) is int and 0 < died <= LATEST_MS else None


def failure_in(headers: dict[str, Any]) -> Failure:
    """Why it died."""
    runs = number_in(headers, RUNS)
    if ERROR in headers:
        return Failure(_text(headers[ERROR]), _text(headers.get(TRACEBACK, "")), runs)
    reason = _given_up(headers).get("reason")
    if reason == "delivery_limit":
        told = "the broker gave it up: it was delivered too often, and never settled"
    elif reason is not None:
        told = f"the broker gave it up: {_text(reason)}"
    else:
        told = "it doesn't say why it is here: another program has published it"
    return Failure(told, attempts=runs)


def _given_up(headers: dict[str, Any]) -> dict[str, Any]:
    """What the broker has noted about the last time that it made a dead letter of this message."""
    noted = headers.get("x-death")
    last = noted[0] if isinstance(noted, list) and noted else None
    return last if isinstance(last, dict) else {}


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    try:
        return repr(value)
    except Exception:  # tables in tables, deeper than Python goes
        return f"({type(value).__name__} that can't be shown)"
