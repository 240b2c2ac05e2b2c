"""Leases, extended from a thread that no handler can hold up."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from offload_redis.scripts import Call
from offload_redis.servers import Server


class Keeper:
    """Runs scripts for code without an event loop, on a connection that lasts as long."""

    def __init__(self, server: Server, timeout: float) -> None:
        self._server = server
        self._timeout = timeout

    def run(self, calls: Sequence[Call]) -> list[int]:
        """Run scripts that answer with a number.

        Raises:
            BackendError: the server is away, or refuses.
        """
        return asyncio.run(self._run(calls))

    async def _run(self, calls: Sequence[Call]) -> list[int]:
        link = self._server.link(self._timeout)
        try:
            return await link.run(calls)
        finally:
            await link.drop()
