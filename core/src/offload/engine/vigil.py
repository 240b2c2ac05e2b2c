"""Started workers are held until they stop, or until their event loops are closed."""

from __future__ import annotations

import contextlib
import threading
from typing import Protocol

LOOK_SECONDS = 1.0
"""How often is looked whether a loop was closed under its worker."""


class Watched(Protocol):
    """What the vigil needs of a worker."""

    def leave_closed_loop(self) -> None:
        """Let go of what the worker holds, if its loop was closed without a stop."""


class Vigil:
    """Looks after the started workers of a process, from a thread that no loop can end.

    A worker that nobody else refers to goes on, and so nothing is collected
    under its jobs. One whose loop was closed without a stop runs nothing any more;
    were it left alone, its jobs would stay leased as long as the process lives.
    """

    def __init__(self) -> None:
        self.begin_again_in_child()

    def begin_again_in_child(self) -> None:
        """In a forked child no worker is started, and there is no thread."""
        self._lock = threading.Lock()
        self._workers: set[Watched] = set()
        self._thread: threading.Thread | None = None
        self._over = threading.Event()

    def hold(self, worker: Watched) -> None:
        """It has started."""
        with self._lock:
            self._workers.add(worker)
            if self._thread is None:
                over = self._over = threading.Event()
                thread = threading.Thread(
                    target=self._watch, args=(over,), name="offload-vigil", daemon=True
                )
                with contextlib.suppress(RuntimeError):  # no thread is left; the next start tries
                    thread.start()
                    self._thread = thread

    def release(self, worker: Watched) -> None:
        """It has stopped."""
        with self._lock:
            self._workers.discard(worker)
            thread = None
            if not self._workers:
                thread, self._thread = self._thread, None
                self._over.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _watch(self, over: threading.Event) -> None:
        while not over.wait(LOOK_SECONDS):
            with self._lock:
                workers = list(self._workers)
            for worker in workers:
                worker.leave_closed_loop()
            del workers  # hold none that has stopped
