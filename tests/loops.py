"""The event loop that all tests run on: asyncio's, or the one of uvicorn's standard install."""

from __future__ import annotations

import asyncio
import os
import warnings


def use_test_loop() -> None:
    """Make every new loop of this process what `OFFLOAD_TEST_LOOP` says: `asyncio` or `uvloop`.

    A policy, as it reaches `asyncio.run` in threads and in programs as well.
    """
    wanted = os.environ.get("OFFLOAD_TEST_LOOP") or "asyncio"
    if wanted == "asyncio":
        return
    if wanted != "uvloop":
        raise ValueError(f"OFFLOAD_TEST_LOOP is asyncio or uvloop, not {wanted!r}")
    import uvloop

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # policies are, from 3.14 on
        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
