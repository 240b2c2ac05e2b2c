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
    """Makes the entries of one worker."""

    def __init__(self, worker: Worker, registry: Registry, queues: Sequence[str]) -> None:
        """Of the worker its claims and limits are wanted, which it is given later."""
        self._worker = worker
        self._registry = registry
        self._queues = queues

    def make(self, job: Job, delay_ms: int, at_ms: int | None, now_ms: int) -> Entry:
        """The entry of this job."""
        if not isinstance(job, Job):
            raise InvalidJobError(f"a Job is performed, not {type(job).__name__}")
        handler, queue = job.handler, job.queue
        # A name that is known here is a good one.
        if not isinstance(handler, str) or not self._registry.has(handler):
            self._check_handler(handler)
        if queue not in self._queues:
            self._check_queue(queue)
        args = capture_args(job.args, self._worker.limits)
        job_id = new_job_id(now_ms)
        return Entry(job_id, queue, encode(job_id, handler, now_ms, args), delay_ms, at_ms)

    def _check_handler(self, handler: Any) -> None:
        check_handler_name(handler)
        if not self._worker.claims.distributed:
            known = ", ".join(sorted(self._registry)) or "none"
            raise UnknownHandlerError(f"handler {handler!r} is not registered; registered: {known}")

    def _check_queue(self, queue: Any) -> None:
        check_queue_name(queue)
        if not self._worker.claims.distributed:
            raise UnknownQueueError(
                f"queue {queue!r} is not consumed by this worker, and no other process could; "
                f"its queues: {', '.join(self._queues)}"
            )
