"""From a job to the entry that is stored; what can't be one is refused here (PERF-4, PERF-6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from offload.driver import Entry
from offload.engine.registry import Registry
from offload.envelope import encode
from offload.errors import InvalidJobError, UnknownHandlerError, UnknownQueueError
from offload.job import Job, new_job_id
from offload.validation import capture_args, check_handler_name, check_queue_name
from offload.worker import Worker


class EntryMaker:
    """Makes the entries of one worker, by the claims and limits that it has by then."""

    def __init__(self, registry: Registry, queues: Sequence[str]) -> None:
        self._registry = registry
        self._queues = queues

    def make(
        self, worker: Worker, job: Job, delay_ms: int, at_ms: int | None, now_ms: int
    ) -> Entry:
        """The entry of this job."""
        if not isinstance(job, Job):
            raise InvalidJobError(f"a Job is performed, not {type(job).__name__}")
        handler, queue = job.handler, job.queue
        # A name that is known here is a good one.
        if not isinstance(handler, str) or not self._registry.has(handler):
            self._check_handler(worker, handler)
        if queue not in self._queues:
            self._check_queue(worker, queue)
        args = capture_args(job.args, worker.limits)
        job_id = new_job_id(now_ms)
        return Entry(job_id, queue, encode(job_id, handler, now_ms, args), delay_ms, at_ms)

    def _check_handler(self, worker: Worker, handler: Any) -> None:
        check_handler_name(handler)
        if not worker.claims.distributed:
            known = ", ".join(sorted(self._registry)) or "none"
            raise UnknownHandlerError(f"handler {handler!r} is not registered; registered: {known}")

    def _check_queue(self, worker: Worker, queue: Any) -> None:
        check_queue_name(queue)
        if not worker.claims.distributed:
            raise UnknownQueueError(
                f"queue {queue!r} is not consumed by this worker, and no other process could; "
                f"its queues: {', '.join(self._queues)}"
            )
