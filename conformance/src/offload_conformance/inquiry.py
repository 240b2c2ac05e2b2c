"""What became of the jobs, for who must find out why one never came."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from offload import Worker
from offload_conformance.history import History

INQUIRY_SECONDS = 3.0
"""How long a backend is asked what became of a job that never came."""
MOST_DEATHS = 20


class Inquiry:
    """Asks, and puts the answers on record."""

    def __init__(self, history: History, masked: Callable[[str], str]) -> None:
        self._history = history
        self._masked = masked

    def note_states(self, workers: Mapping[str, Worker]) -> None:
        """Record what each worker says that it is."""
        states = {name: worker.state.value for name, worker in workers.items()}
        self._history.add("workers", states=states)

    async def ask_another(self, connect: Callable[[], Worker]) -> None:
        """Ask by way of a worker of its own: those of the test may be cut off."""
        with contextlib.suppress(Exception):
            asked = connect()
            await self.ask(asked)
            await asyncio.wait_for(asked.stop(), INQUIRY_SECONDS)

    async def ask(self, asked: Worker) -> None:
        """Ask for the counts of the queues, and for the dead letters."""
        await self._ask("queues", lambda: self._counts_by(asked))
        await self._ask("dead", lambda: self._deaths_by(asked))

    async def _ask(self, name: str, ask: Callable[[], Awaitable[Any]]) -> None:
        try:
            told = await asyncio.wait_for(ask(), INQUIRY_SECONDS)
        except Exception as error:
            told = self._masked(f"{type(error).__name__}: {error}")[:300]
        self._history.add(name, found=told)

    async def _counts_by(self, asked: Worker) -> dict[str, Any]:
        return {name: msgspec.to_builtins(each) for name, each in (await asked.counts()).items()}

    async def _deaths_by(self, asked: Worker) -> list[str]:
        letters = await asked.dead_letters.list(limit=MOST_DEATHS)
        return [
            f"{each.id} after {each.attempts}: {self._masked(each.error)[:300]}" for each in letters
        ]
