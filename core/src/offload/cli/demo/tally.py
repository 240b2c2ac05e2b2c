"""What an observer of the demo's worker sees."""

from __future__ import annotations

import asyncio
import time

import offload
from offload.cli.demo.ledger import Kind
from offload.job import JobContext


class Tally:
    """Counts what happens to the jobs of this process."""

    def __init__(self) -> None:
        self.running: set[str] = set()
        """Ids of the jobs whose handlers run now."""
        self.started = 0
        self.retried = 0
        self.dead: list[str] = []
        """Ids of the dead letters that nobody has taken down yet."""
        self.files = 0
        self._first_file = self._last_file = 0.0
        self.changed = asyncio.Event()
        """Something has come to an end."""

    @property
    def files_a_second(self) -> float:
        """How fast the files went, from the start of the first to the end of the last."""
        taken = self._last_file - self._first_file
        return self.files / taken if taken > 0.0 else 0.0

    @offload.hookimpl
    def job_started(self, job: JobContext) -> None:
        self.started += 1
        self.running.add(job.id)
        if job.handler == Kind.FILE and not self._first_file:
            self._first_file = time.perf_counter()

    @offload.hookimpl
    def job_succeeded(self, job: JobContext) -> None:
        self._ended(job)
        if job.handler == Kind.FILE:
            self.files += 1
            self._last_file = time.perf_counter()

    @offload.hookimpl
    def job_retried(self, job: JobContext) -> None:
        self._ended(job)
        self.retried += 1

    @offload.hookimpl
    def job_dead(self, job: JobContext) -> None:
        self._ended(job)
        self.dead.append(job.id)

    @offload.hookimpl
    def job_returned(self, job: JobContext) -> None:
        self._ended(job)

    def _ended(self, job: JobContext) -> None:
        self.running.discard(job.id)
        self.changed.set()
