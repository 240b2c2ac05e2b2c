"""Adapters whose backend is a server, and right: the kit must pass them."""

from __future__ import annotations

from dataclasses import replace

from offload_mutants import net_wire as wire
from offload_mutants.net_driver import ADAPTER, NetDriver
from offload_mutants.registry import benign


@benign("LIFE", "PERF", "DUR", "DIST", base="net", quick=False)
class KeepsJobsOnAServer(NetDriver):
    """Connects to a server that may go away, and comes back to it by itself."""


NOT_DURABLE = replace(ADAPTER.claims, durable=False)


@benign("DIST", base="net", claims=NOT_DURABLE, quick=False)
class KeepsJobsInTheMemoryOfAServer(NetDriver):
    """Is shared by several processes, whose jobs go with its server, and claims no more."""

    backend = (wire.FORGETS,)


@benign(
    "DUR",
    "DIST",
    base="net",
    claims=NOT_DURABLE,
    limits=replace(ADAPTER.limits, recovery=None),
    quick=False,
)
class RunsEachJobAtMostOnce(NetDriver):
    """Forgets what it hands over, as a plain pop does: a worker that dies takes it along."""

    backend = (wire.FORGETS, wire.POPS)


@benign("LIFE", "PERF", base="net")
class ConnectsAnewAtEachStart(NetDriver):
    """Drops the connection with which it has performed, to consume over one of its own."""

    async def open(self) -> None:
        await self.disconnect()
        await super().open()
