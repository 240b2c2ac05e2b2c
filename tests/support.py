"""Handlers that report to the test, and go on when it lets them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import offload

DEADLINE = 20.0
"""Seconds after which something that had to happen has not."""


class Recorder:
    """Records the runs of its handlers, and can hold them."""

    def __init__(self) -> None:
        self.started: list[offload.JobContext] = []
        self.args: list[Any] = []
        self.ended: list[str] = []
        self.started_at: dict[str, float] = {}
        self.running = 0
        self.most_running = 0
        self.gate = asyncio.Event()
        self._changed = asyncio.Event()

    async def note(self, args: Any) -> None:
        """A handler that returns at once."""
        self._begin(args)
        self._finish()

    async def hold(self, args: Any) -> None:
        """A handler that waits for the gate."""
        self._begin(args)
        try:
            await self.gate.wait()
        finally:
            self._finish()

    def failing(self, times: int, error: Callable[[], BaseException] = ValueError) -> Any:
        """A handler that raises in its first `times` attempts."""

        async def handler(args: Any) -> None:
            self._begin(args)
            self._finish()
            if offload.current_job().attempt <= times:
                raise error()

        return handler

    async def until(self, condition: Callable[[], bool]) -> None:
        """Return when `condition` holds; it is looked at after each change."""
        async with asyncio.timeout(DEADLINE):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def until_started(self, count: int) -> None:
        """Return when so many runs have begun."""
        await self.until(lambda: len(self.started) >= count)

    def _begin(self, args: Any) -> None:
        job = offload.current_job()
        self.started_at.setdefault(job.id, time.time())
        self.started.append(job)
        self.args.append(args)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        self._changed.set()

    def _finish(self) -> None:
        self.running -= 1
        self.ended.append(offload.current_job().id)
        self._changed.set()


class Log:
    """An observer that records every hook, and lets the test wait for one."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []
        self._changed = asyncio.Event()

    def _add(self, name: str, what: Any) -> None:
        self.events.append((name, what))
        self._changed.set()

    @offload.hookimpl
    def worker_started(self, worker: offload.Worker) -> None:
        self._add("worker_started", worker)

    @offload.hookimpl
    def worker_stopped(self, worker: offload.Worker, report: offload.StopReport) -> None:
        self._add("worker_stopped", report)

    @offload.hookimpl
    def job_enqueued(self, job: offload.JobContext) -> None:
        self._add("job_enqueued", job)

    @offload.hookimpl
    def job_started(self, job: offload.JobContext) -> None:
        self._add("job_started", job)

    @offload.hookimpl
    def job_succeeded(self, job: offload.JobContext) -> None:
        self._add("job_succeeded", job)

    @offload.hookimpl
    def job_failed(self, job: offload.JobContext, error: BaseException) -> None:
        self._add("job_failed", error)

    @offload.hookimpl
    def job_retried(self, job: offload.JobContext, delay: Any) -> None:
        self._add("job_retried", delay)

    @offload.hookimpl
    def job_dead(self, job: offload.JobContext, error: str) -> None:
        self._add("job_dead", error)

    @offload.hookimpl
    def job_returned(self, job: offload.JobContext) -> None:
        self._add("job_returned", job)

    def count(self, name: str) -> int:
        return sum(event == name for event, _ in self.events)

    def last(self, name: str) -> Any:
        return [what for event, what in self.events if event == name][-1]

    async def until(self, name: str, count: int = 1) -> None:
        """Return when a hook was called so often."""
        async with asyncio.timeout(DEADLINE):
            while self.count(name) < count:
                self._changed.clear()
                await self._changed.wait()
