"""A limit for each test: an adapter that hangs fails, and is shown where."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from types import FrameType
from typing import Any, Self

from offload_conformance.lab import RuleBrokenError
from offload_conformance.leaks import LIMIT_THREAD
from offload_conformance.stage import DEADLINE

LIMIT = 20 * DEADLINE
"""Seconds that a test may take; what it waits for fails long before, unless the adapter hangs."""
AGAIN_SECONDS = 2.0
"""How often a test is interrupted that doesn't end then."""
FRAMES = 6
"""How many are shown of the stack, the innermost."""


class Limit:
    """Interrupts the main thread, as Ctrl-C does, when a test has taken too long.

    First a task is cancelled so; after that, whatever runs is interrupted.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop | None = None,
        seconds: float = LIMIT,
        what: str = "the test",
    ) -> None:
        self._loop = loop
        self._what = what
        self._seconds = seconds
        self._timer = self._after(seconds)
        self._striking = threading.Lock()
        self._is_over = False
        self._stack = ""

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._striking:
            self._is_over = True
        self._timer.cancel()
        self._timer.join()

    def _after(self, seconds: float) -> threading.Timer:
        timer = threading.Timer(seconds, self._strike)
        timer.daemon = True
        timer.name = LIMIT_THREAD
        return timer

    def _strike(self) -> None:
        with self._striking:
            if self._is_over:
                return
            if not self._stack:
                frames = sys._current_frames()  # noqa: SLF001 - public, but for its name
                frame = frames.get(threading.main_thread().ident or 0)
                self._stack = stack_of(frame, self._loop)
            os.kill(os.getpid(), signal.SIGINT)
            self._timer = self._after(AGAIN_SECONDS)
            self._timer.start()

    @contextlib.contextmanager
    def as_error(self) -> Iterator[None]:
        """Within it a strike is an error: after Ctrl-C, pytest tears no fixture down."""

        def interrupt(*_: object) -> None:
            self.check()
            raise KeyboardInterrupt

        former = signal.signal(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, former)

    def check(self) -> None:
        """Raise RuleBrokenError if the test has taken too long."""
        if self._stack:
            raise RuleBrokenError(
                f"{self._what} took more than {self._seconds:g} s; it was at:\n{self._stack}"
            ) from None


def stack_of(frame: FrameType | None, loop: asyncio.AbstractEventLoop | None) -> str:
    """The innermost frames, and where each task of the loop waits."""
    told = "".join(traceback.format_stack(frame)[-FRAMES:]) if frame is not None else ""
    tasks: set[asyncio.Task[object]] = set()
    with contextlib.suppress(RuntimeError):  # they change meanwhile
        tasks = asyncio.all_tasks(loop) if loop is not None else tasks
    for task in sorted(tasks, key=lambda task: task.get_name()):
        where = "".join("".join(traceback.format_stack(each, 1)) for each in frames_of(task))
        told += f"  {task.get_name()} waits at\n{where}"
    return told


def frames_of(task: asyncio.Task[object]) -> list[FrameType]:
    """What each coroutine waits for, from that of the task on; asyncio tells of that one alone."""
    frames: list[FrameType] = []
    waits: Any = task.get_coro()
    while waits is not None:
        # A coroutine, or a generator, as those of `def` functions that are awaited.
        if frame := getattr(waits, "cr_frame", None) or getattr(waits, "gi_frame", None):
            frames.append(frame)
        waits = getattr(waits, "cr_await", None) or getattr(waits, "gi_yieldfrom", None)
    return frames[-FRAMES:]
