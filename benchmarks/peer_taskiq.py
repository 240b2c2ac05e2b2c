"""What taskiq's peers have in common, whichever broker they have."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from taskiq import AsyncBroker
from taskiq.receiver import Receiver


@asynccontextmanager
async def listening(broker: AsyncBroker, tasks: int, *, run_startup: bool) -> AsyncIterator[None]:
    """Run so many jobs at once, as its command line does it, less the processes."""
    with ThreadPoolExecutor() as executor:
        receiver = Receiver(broker, executor, max_async_tasks=tasks, run_startup=run_startup)
        stop = asyncio.Event()
        task = asyncio.create_task(receiver.listen(stop))
        yield
        stop.set()
        await task
