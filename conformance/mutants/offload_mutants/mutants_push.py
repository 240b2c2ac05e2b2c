"""Slips of an author whose library hands its jobs over."""

from __future__ import annotations

from msgspec.structs import replace

from offload import Delivery, Settlement, Verdict
from offload_mutants.bare_worker import BareDriver
from offload_mutants.registry import mutant


@mutant("LIFE-7", "LIFE-13", "LIFE-9", base="bare")
class CountsRunsThatGoBack(BareDriver):
    """Lets the library count a run whose job it gives back."""

    async def run(self, delivery: Delivery) -> Settlement:
        settlement = await super().run(delivery)
        if settlement.verdict is Verdict.RELEASE:
            delivery.receipt.runs += 1
        return settlement


@mutant("LIFE-7", "LIFE-9", "LIFE-13", base="bare")
class EndsWithoutAnError(BareDriver):
    """Lets the library take a job that goes back for one that is done."""

    async def run(self, delivery: Delivery) -> Settlement:
        settlement = await super().run(delivery)
        if settlement.verdict is Verdict.RELEASE:
            return replace(settlement, verdict=Verdict.ACKNOWLEDGE)
        return settlement


@mutant("FAIL-2", "FAIL-9", base="bare")
class HasABackoffOfItsOwn(BareDriver):
    """Leaves it to the library when a job that failed runs again."""

    async def run(self, delivery: Delivery) -> Settlement:
        settlement = await super().run(delivery)
        if settlement.verdict is Verdict.RETRY:
            return replace(settlement, delay_ms=5)
        return settlement


@mutant("LIFE-10", base="bare")
class LetsTheLibraryGoOn(BareDriver):
    """Doesn't tell the library of a drain, nor of the end."""

    async def end(self) -> None:
        """Nothing to do, thinks the author: the worker has stopped."""
