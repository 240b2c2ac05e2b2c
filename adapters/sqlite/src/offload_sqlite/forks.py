"""No fork while SQLite is at work: a child would inherit its locks, held for ever by nobody."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref

WAIT_SECONDS = 10.0
"""How long a fork waits for a call that is under way; then it takes its chance."""


class Gate:
    """Held by a thread while it is inside of SQLite."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_held_for_fork = False
        _gates.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def close(self) -> None:
        """Let nobody in until `open`."""
        self._is_held_for_fork = self._lock.acquire(timeout=WAIT_SECONDS)

    def open(self) -> None:
        """Let them in again."""
        if self._is_held_for_fork:
            self._is_held_for_fork = False
            self._lock.release()


_gates: weakref.WeakSet[Gate] = weakref.WeakSet()
_closed: list[Gate] = []
_forking = threading.Lock()
"""One fork at a time: two threads that fork at once would each open what both have closed."""


def _close_all() -> None:
    _forking.acquire()
    _closed[:] = list(_gates)
    for gate in _closed:
        gate.close()


def _open_all() -> None:
    for gate in _closed:
        with contextlib.suppress(RuntimeError):
            gate.open()
    _closed.clear()
    _forking.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_close_all, after_in_parent=_open_all, after_in_child=_open_all)
