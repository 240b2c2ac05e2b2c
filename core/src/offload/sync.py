"""The worker for code without an event loop: Flask, Django, scripts, `def` handlers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterable, Mapping
from datetime import datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from offload.errors import UsageError
from offload.job import Job
from offload.worker import QueueCounts, State, StopReport

if TYPE_CHECKING:
    from offload.worker import Worker

T = TypeVar("T")


class SyncWorker:
    """Blocking twins of a worker's calls, safe from any thread.

    They run on the loop that the worker is bound to, or else on one of their
    own in a daemon thread, which ends with `stop`. Called from the worker's
    own event loop they would wait for themselves, and raise `UsageError`.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._own_loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def start(self) -> None:
        """See `Worker.start`."""
        self._run(self._worker.start())

    def stop(self) -> StopReport:
        """See `Worker.stop`."""
        report = self._run(self._worker.stop())
        self._end_own_loop()
        return report

    def perform(self, job: Job) -> str:
        """See `Worker.perform`."""
        return self._run(self._worker.perform(job))

    def perform_in(self, job: Job, delay: timedelta | float) -> str:
        """See `Worker.perform_in`."""
        return self._run(self._worker.perform_in(job, delay))

    def perform_at(self, job: Job, when: datetime) -> str:
        """See `Worker.perform_at`."""
        return self._run(self._worker.perform_at(job, when))

    def perform_many(self, jobs: Iterable[Job]) -> list[str]:
        """See `Worker.perform_many`."""
        return self._run(self._worker.perform_many(jobs))

    def counts(self) -> Mapping[str, QueueCounts]:
        """See `Worker.counts`."""
        return self._run(self._worker.counts())

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _run(self, call: Coroutine[Any, Any, T]) -> T:
        try:
            loop = self._loop()
        except BaseException:
            call.close()
            raise
        return asyncio.run_coroutine_threadsafe(call, loop).result()

    def _loop(self) -> asyncio.AbstractEventLoop:
        bound = self._worker.loop
        if bound is None or not bound.is_running():
            bound = self._start_own_loop()
        try:
            if asyncio.get_running_loop() is bound:
                raise UsageError("worker.sync was called on the worker's own event loop; use await")
        except RuntimeError:
            pass  # no loop runs in this thread: what worker.sync is for
        return bound

    def _start_own_loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._own_loop is None:
                self._own_loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=self._own_loop.run_forever, name="offload-sync", daemon=True
                )
                self._thread.start()
            return self._own_loop

    def _end_own_loop(self) -> None:
        with self._lock:
            loop, thread = self._own_loop, self._thread
            if loop is None or thread is None or thread is threading.current_thread():
                return
            if self._worker.loop is loop and self._worker.state is State.STOPPING:
                return  # stopped from a handler: the drain still needs the loop
            self._own_loop = self._thread = None
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
