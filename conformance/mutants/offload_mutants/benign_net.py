"""Adapters whose backend is a server, and right: the kit must pass them."""

from __future__ import annotations

from offload_mutants.net_driver import NetDriver
from offload_mutants.registry import benign


@benign(base="net", quick=False)
class KeepsJobsOnAServer(NetDriver):
    """Connects to a server that may go away, and comes back to it by itself."""


@benign(base="net")
class ConnectsAnewAtEachStart(NetDriver):
    """Drops the connection with which it has performed, to consume over one of its own."""

    async def open(self) -> None:
        await self.disconnect()
        await super().open()
