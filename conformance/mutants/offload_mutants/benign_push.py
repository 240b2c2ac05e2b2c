"""Libraries that hand their jobs over, and are slow."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

from offload import Delivery, Settlement
from offload_mutants.bare_worker import ADAPTER, BareDriver
from offload_mutants.registry import benign


@benign("FAIL", base="bare", limits=replace(ADAPTER.limits, lateness=timedelta(seconds=1)))
class RetriesLate(BareDriver):
    """Finds a third of a second late what is to be run again, and states that."""

    async def run(self, delivery: Delivery) -> Settlement:
        if delivery.attempt > 1:
            await asyncio.sleep(0.35)
        return await super().run(delivery)
