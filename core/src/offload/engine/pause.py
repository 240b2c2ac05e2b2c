"""How long the engine leaves a backend alone that is away."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from offload.retry import exponential

_LENGTH = exponential(timedelta(milliseconds=50), limit=timedelta(seconds=1), jitter=0.0)


async def pause(failures: int) -> None:
    """Wait before the next try, after so many that failed in a row."""
    await asyncio.sleep(_LENGTH(failures).total_seconds())
