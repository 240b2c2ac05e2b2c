"""A thread with an event loop of its own, which no handler can hold up.

The consuming side lives there: were its heartbeats sent from the loop of the
handlers, one that blocks that loop would cost the worker all that it has.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

JOIN_SECONDS = 5.0
"""How long a stop waits for the thread, which has nothing left to do."""


class LoopThread:
    """An event loop in a thread."""

    def __init__(self) -> None:
        # Not by the policy: what the application has chosen for its own loops is no matter of ours.
        self._loop = asyncio.SelectorEventLoop()
        self._thread = threading.Thread(target=self._run, name="offload-amqp", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    async def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run this there. Cancelling it cancels it there, too."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, self._loop))

    async def end(self) -> None:
        """End the thread; whatever still runs there is cancelled."""
        if not self._thread.is_alive():
            return  # ended before, or this is a forked child, where it never ran
        try:
            await self.call(_cancel_others())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(JOIN_SECONDS)


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
