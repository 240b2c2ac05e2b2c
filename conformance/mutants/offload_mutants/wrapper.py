"""A worker around a worker: for slips that need no look inside."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from offload import (
    Backoff,
    DeadLetters,
    Handler,
    Job,
    QueueCounts,
    State,
    StopReport,
    Worker,
)
from offload.adapters import make_worker
from offload.config import Config
from offload_mutants.registry import BASES


def right_worker(config: Config, base: str = "simple") -> Worker:
    """The worker of the adapter that is varied, as it should be."""
    return make_worker(BASES[base], config)


class Wrapper(Worker):
    """Passes everything on; a variant overrides what it does differently."""

    base = "simple"

    def __init__(self, config: Config) -> None:
        self.config = config
        self.inner = right_worker(config, self.base)

    @property
    def state(self) -> State:
        return self.inner.state

    @property
    def dead_letters(self) -> DeadLetters:
        return self.inner.dead_letters

    async def start(self) -> None:
        await self.inner.start()
        self.loop = self.inner.loop

    async def stop(self) -> StopReport:
        return await self.inner.stop()

    async def perform(self, job: Job) -> str:
        return await self.inner.perform(job)

    async def perform_in(self, job: Job, delay: timedelta | float) -> str:
        return await self.inner.perform_in(job, delay)

    async def perform_at(self, job: Job, when: datetime) -> str:
        return await self.inner.perform_at(job, when)

    async def perform_many(self, jobs: Iterable[Job]) -> list[str]:
        return await self.inner.perform_many(jobs)

    def register(
        self,
        name: str,
        handler: Handler,
        *,
        max_attempts: int | None = None,
        backoff: Backoff | None = None,
        timeout: timedelta | float | None = None,
    ) -> None:
        handler = self.change_handler(name, handler)
        options = {"max_attempts": max_attempts, "backoff": backoff, "timeout": timeout}
        self.inner.register(name, handler, **self.change_options(options))

    def change_handler(self, name: str, handler: Any) -> Any:
        """What is registered in the place of this, which may be no function at all."""
        return handler

    def change_options(self, options: dict[str, Any]) -> dict[str, Any]:
        """What is registered in the place of these options of a handler."""
        return options

    async def counts(self) -> Mapping[str, QueueCounts]:
        return await self.inner.counts()

    def observe(self, observer: object) -> None:
        self.inner.observe(observer)
