"""Keeps a worker's own loops going: one that ends is told, and begun again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from offload.engine.logs import engine_log, write
from offload.engine.pause import pause

T = TypeVar("T")

RESTART_SECONDS = 0.5
"""After this time a loop begins again that the application cancelled."""


class Supervised:
    """Does some work in a task until the work ends by itself, or `cancel` is called.

    Whatever the work raises is logged, and the work begun again after a pause:
    a worker whose loops have died in silence would hold its jobs for ever.
    """

    def __init__(
        self, work: Callable[[], Awaitable[None]], what: str, restarting: Callable[[], None]
    ) -> None:
        """`restarting` is called before the work begins again after a cancellation."""
        self._work = work
        self._what = what
        self._restarting = restarting
        self._loop = asyncio.get_running_loop()
        self._is_cancelled = False
        self._restart: asyncio.TimerHandle | None = None
        self._begin()

    def cancel(self) -> None:
        """End the task for good."""
        self._is_cancelled = True
        if self._restart is not None:
            self._restart.cancel()
        self.task.cancel()

    @property
    def was_cancelled(self) -> bool:
        """Whether others have cancelled it, and it hasn't begun again."""
        return not self._is_cancelled and self.task.cancelling() > 0

    def _begin(self) -> None:
        self.task = own_task(_supervise(self._work, self._what), f"offload-{self._what}")
        self.task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() and not self._is_cancelled:
            # By an application that cancels every task it finds. `asyncio.run` does so, too, in
            # the end: it waits for this task, and then closes the loop before the timer fires.
            self._restart = self._loop.call_later(RESTART_SECONDS, self._begin_again)

    def _begin_again(self) -> None:
        line = "the worker's %s loop was cancelled by the application; it begins again"
        write(engine_log.critical, line, self._what)
        self._begin()
        self._restarting()


def own_task(work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
    """A task of the engine's own.

    Not by the application's task factory, which may want what no other task needs.
    """
    return asyncio.Task(work, loop=asyncio.get_running_loop(), name=name)


async def _supervise(work: Callable[[], Awaitable[None]], what: str) -> None:
    failures = 0
    loop = asyncio.get_running_loop()
    while True:
        try:
            await work()
        except BaseException as error:
            if must_end(loop):
                raise
            write(
                engine_log.critical,
                "the worker's %s loop failed; it begins again",
                what,
                error=error,
            )
        else:
            return
        failures += 1
        await pause(failures)


def end_if_cancelled() -> None:
    """End the calling task if it was asked to: a driver may have swallowed its cancellation."""
    if is_cancelled():
        raise asyncio.CancelledError


def must_end(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether the calling task, which is of this loop, has to end, not to try again.

    It was asked to; or it is being collected, since the loop is gone.
    """
    try:
        return asyncio.get_running_loop() is not loop or is_cancelled()
    except RuntimeError:
        return True


def is_cancelled() -> bool:
    """Whether the calling task was asked to end; a CancelledError alone may be a driver's."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
