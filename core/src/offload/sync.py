"""The worker for code without an event loop: Flask, Django, scripts, `def` handlers."""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import threading
import weakref
from collections.abc import Coroutine, Iterable, Mapping
from datetime import datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from offload.errors import UsageError
from offload.job import Job
from offload.loop_thread import LoopThread, run_in
from offload.worker import QueueCounts, State, StopReport

if TYPE_CHECKING:
    from offload.worker import Worker

T = TypeVar("T")

log = logging.getLogger("offload")


class SyncWorker:
    """Blocking twins of a worker's calls, safe from any thread.

    Where the driver stores from threads (`SyncEnqueue`), what is performed goes
    to the backend from the calling thread. All other calls run on the loop that the
    worker is bound to while that runs, or else on one of their own in a daemon
    thread, which ends with `stop`. Called from the worker's own event loop they
    would hold it up, or wait for themselves, and raise `UsageError`; when the loop
    that they run on ends before they do, they raise `BackendUnavailableError` with
    `maybe_stored`.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._thread: LoopThread | None = None
        self._lock = threading.Lock()
        self._calls = 0
        self._process = os.getpid()

    def start(self) -> None:
        """See `Worker.start`. A worker that still runs when the interpreter ends is stopped."""
        self._run(self._worker.start(), on_own_loop=True)
        atexit.register(_stop_at_exit, weakref.ref(self), os.getpid())

    def stop(self) -> StopReport:
        """See `Worker.stop`."""
        report = self._run(self._worker.stop())
        self._end_own_thread()
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

    def _run(self, call: Coroutine[Any, Any, T], *, on_own_loop: bool = False) -> T:
        try:
            loop = self._loop(on_own_loop)
        except BaseException:
            call.close()
            raise
        with self._lock:
            self._calls += 1
        try:
            return run_in(call, loop)
        finally:
            with self._lock:
                self._calls -= 1
                is_last = not self._calls
            if is_last and self._worker.loop is not loop:  # it belongs to another loop, or to none
                self._end_own_thread()

    def _loop(self, on_own_loop: bool) -> asyncio.AbstractEventLoop:
        if self._process != os.getpid():
            # A forked child: the thread, and the holder of the lock, are the parent's.
            self._process, self._thread, self._lock = os.getpid(), None, threading.Lock()
            self._calls = 0
        bound = self._worker.loop
        is_started = self._worker.state in (State.RUNNING, State.STOPPING)
        # One that only performs may end at any time, as that of a request does.
        if bound is None or not bound.is_running() or (on_own_loop and not is_started):
            bound = self._own_loop()
        refuse_on(bound)
        return bound

    def _own_loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._thread is None or not self._thread.is_alive:
                self._thread = LoopThread("offload-sync")
            return self._thread.loop

    def _end_own_thread(self) -> None:
        with self._lock:
            thread = self._thread
            if thread is None or thread.is_current:
                return
            if self._worker.loop is thread.loop and self._worker.state is State.STOPPING:
                return  # stopped from a handler: the drain still needs the loop
            self._thread = None
        thread.end()


def refuse_on(loop: asyncio.AbstractEventLoop | None) -> None:
    """Say that a call would hold up this loop, or wait for it in vain, if it runs just here."""
    try:
        running = asyncio.get_running_loop()
    except RuntimeError:
        return  # no loop runs in this thread: what worker.sync is for
    if running is loop:
        raise UsageError("worker.sync was called on the worker's own event loop; use await")


def _stop_at_exit(reference: weakref.ref[SyncWorker], process: int) -> None:
    """Drain a worker that nobody has stopped, so that no job vanishes unnamed."""
    sync = reference()
    if sync is None or process != os.getpid() or sync._worker.state is not State.RUNNING:  # noqa: SLF001
        return
    log.warning("the interpreter ends, and %r was not stopped: it is stopped now", sync._worker)  # noqa: SLF001
    try:
        sync.stop()
    except Exception:
        log.exception("it could not be stopped")
