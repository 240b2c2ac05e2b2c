"""Calls of a driver that wait in tasks of the application: a stop lets none of them outlast it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from offload.errors import BackendUnavailableError

A = TypeVar("A")
T = TypeVar("T")


class Calls:
    """Those that are under way on one event loop."""

    def __init__(self) -> None:
        self._under_way: dict[asyncio.Task[Any], int] = {}
        """By the task that waits: how often it had been asked to end before."""
        self._interrupted: set[asyncio.Task[Any]] = set()
        self._are_over = False
        self._idle: asyncio.Future[None] | None = None

    async def make(
        self, call: Callable[[A], Awaitable[T]], argument: A, *, changes: bool = True
    ) -> T:
        """Make this call; one that `changes` nothing in the backend can't have stored anything.

        Raises:
            BackendUnavailableError: the worker was stopped, and this call outlasted that.
        """
        if self._are_over:
            raise _stopped(maybe_stored=False)
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a worker is called from a task of asyncio")
        asked_before = self._under_way[task] = task.cancelling()
        try:
            return await call(argument)
        except asyncio.CancelledError:
            if task not in self._interrupted or task.cancelling() > asked_before + 1:
                raise  # the application has cancelled it
            raise _stopped(maybe_stored=changes) from None
        finally:
            del self._under_way[task]
            if task in self._interrupted:
                self._interrupted.discard(task)
                task.uncancel()
            if self._idle is not None and not self._under_way:
                self._idle.set_result(None)
                self._idle = None

    async def idle(self) -> None:
        """Return when none is under way."""
        while self._under_way:
            if self._idle is None:
                self._idle = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._idle)

    def end(self) -> None:
        """Cancel those that are under way, and refuse others until `begin_again`."""
        self._are_over = True
        for task in self._under_way:
            if task not in self._interrupted:
                self._interrupted.add(task)
                task.cancel()

    def begin_again(self) -> None:
        """Make calls as before."""
        self._are_over = False


def _stopped(*, maybe_stored: bool) -> BackendUnavailableError:
    return BackendUnavailableError(
        "the worker was stopped before the backend answered", maybe_stored=maybe_stored
    )
