"""The one thread that uses a connection, so that calls are carried out in order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class StoreThread:
    """Runs blocking calls one after the other."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="offload-sqlite")

    async def call(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """Run a function in the thread. Cancelled here, it still runs to its end there."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, function, *args)

    def submit(self, function: Callable[[*Ts], object], *args: *Ts) -> None:
        """Run a function after what is under way, without waiting for it."""
        self._executor.submit(function, *args)

    def end(self, *, wait: bool) -> None:
        """End the thread after what is under way, and wait for that or not."""
        self._executor.shutdown(wait=wait)
