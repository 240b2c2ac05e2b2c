"""A worker process whose clock is wrong: `python -m offload_conformance.wrong_clock STAGE NAME`.

The clock is libfaketime's where that is installed, and reaches whatever the process asks the
system; else those of the modules `time` and `datetime`. Monotonic clocks stay as they are.
"""

from __future__ import annotations

import datetime
import os
import sys
import time
from pathlib import Path
from typing import Any

VARIABLE = "OFFLOAD_KIT_CLOCK"
LIBRARY = "libfaketimeMT.so.1"
"""The one for programs with threads."""
FOLDERS = ("usr/lib/*/faketime", "usr/lib*/faketime", "usr/local/lib/faketime")


def environment(off_by: float) -> dict[str, str]:
    """Environment variables that make a process's clock wrong by `off_by` seconds."""
    found = {VARIABLE: f"{off_by:g}"}
    libraries = (each for folder in FOLDERS for each in Path("/").glob(f"{folder}/{LIBRARY}"))
    if (library := next(libraries, None)) is not None:
        found |= {
            "LD_PRELOAD": str(library),
            "FAKETIME": f"{off_by:+g}s",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
    return found


def set_clock(off_by: float) -> None:
    """Make the clocks of `time` and `datetime` wrong, for all that is imported from now on."""
    time_ns, real = time.time_ns, datetime.datetime

    class AnyDatetime(type):
        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, real)

    class WrongDatetime(real, metaclass=AnyDatetime):  # type: ignore[valid-type, misc]
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Any:
            return real.now(tz) + datetime.timedelta(seconds=off_by)

    time.time_ns = lambda: time_ns() + int(off_by * 1_000_000_000)
    time.time = lambda: time.time_ns() / 1e9
    datetime.datetime = WrongDatetime  # type: ignore[misc]


if __name__ == "__main__":
    seconds = float(os.environ[VARIABLE])
    if "FAKETIME" not in os.environ:
        set_clock(seconds)
    from offload_conformance.processes import main

    main(sys.argv[1], sys.argv[2], seconds)
