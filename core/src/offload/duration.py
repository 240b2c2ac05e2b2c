"""Durations as people write them in a config string or on a command line."""

from __future__ import annotations

import re
from datetime import timedelta

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)?", re.ASCII)

ALLOWED = "a number with a unit: 500ms, 30s, 5m, 1h or 2d (no unit: seconds)"


def parse_duration(text: str) -> timedelta:
    """Read `500ms`, `30s`, `5m`, `1h`, `2d`, or plain seconds.

    Raises:
        ValueError: for anything else, with what is allowed as its text.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError(ALLOWED)
    try:
        return timedelta(seconds=float(match[1]) * _UNITS[match[2] or "s"])
    except OverflowError:
        raise ValueError(ALLOWED) from None


def format_duration(duration: timedelta) -> str:
    """The shortest text that `parse_duration` reads back, as far as it is exact."""
    milliseconds = duration // timedelta(milliseconds=1)
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)):
        if milliseconds and milliseconds % size == 0:
            return f"{milliseconds // size}{unit}"
    return f"{milliseconds}ms"
