"""Keeps a worker's own loops going: one that ends is told, and begun again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from offload.engine.logs import engine_log, write
from offload.engine.pause import pause


def supervised(work: Callable[[], Awaitable[None]], what: str) -> asyncio.Task[None]:
    """A task that does this work until the work ends by itself, or the task is cancelled.

    Whatever the work raises is logged, and the work begun again after a pause:
    a worker whose loops have died in silence would hold its jobs for ever.
    """
    # Not by the application's task factory, which may want what no other task needs.
    loop = asyncio.get_running_loop()
    return asyncio.Task(_supervise(work, what), loop=loop, name=f"offload-{what}")


async def _supervise(work: Callable[[], Awaitable[None]], what: str) -> None:
    failures = 0
    while True:
        try:
            await work()
        except BaseException as error:
            if is_cancelled():
                raise
            write(
                engine_log.critical,
                "the worker's %s loop failed; it begins again",
                what,
                error=error,
            )
        else:
            return
        failures += 1
        await pause(failures)


def is_cancelled() -> bool:
    """Whether the calling task was asked to end; a CancelledError alone may be a driver's."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
