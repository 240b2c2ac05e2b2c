"""`worker.sync` of a worker whose driver may store from threads."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from offload.job import Job
from offload.sync import SyncWorker, refuse_on
from offload.validation import read_delay, read_instant

if TYPE_CHECKING:
    from offload.engine.driver_worker import DriverWorker


class SyncPerformer(SyncWorker):
    """Performs in the calling thread where that can be, and else as any worker does."""

    def __init__(self, worker: DriverWorker) -> None:
        super().__init__(worker)
        self._here = worker

    def perform(self, job: Job) -> str:
        if not self._may_perform_here():
            return super().perform(job)
        return self._here.perform_by_thread(job)

    def perform_in(self, job: Job, delay: timedelta | float) -> str:
        if not self._may_perform_here():
            return super().perform_in(job, delay)
        return self._here.perform_by_thread(job, read_delay(delay, self._here.limits))

    def perform_at(self, job: Job, when: datetime) -> str:
        if not self._may_perform_here():
            return super().perform_at(job, when)
        return self._here.perform_by_thread(job, 0, read_instant(when, self._here.limits))

    def perform_many(self, jobs: Iterable[Job]) -> list[str]:
        if not self._may_perform_here():
            return super().perform_many(jobs)
        return self._here.perform_many_by_thread(jobs)

    def _may_perform_here(self) -> bool:
        if not self._here.sync_reach.is_open:
            return False
        loop = self._here.loop
        if loop is not None:
            refuse_on(loop)
            if loop.is_closed() and self._here.is_at_work:
                return False  # the other way finds that, and stops the worker
        return True
