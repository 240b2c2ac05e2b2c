"""Calls of a driver that wait in tasks of the application: a stop lets none of them outlast it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from offload.errors import BackendUnavailableError

A = TypeVar("A")
T = TypeVar("T")

NO_TASK = "the calls of a worker are made in tasks of asyncio"


class Calls:
    """Those that are under way on one event loop."""

    def __init__(self) -> None:
        self._under_way: set[asyncio.Task[Any]] = set()
        """The tasks that wait for them."""
        self.interrupted: set[asyncio.Task[Any]] = set()
        """Those of them that a stop has cancelled."""
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
            raise RuntimeError(NO_TASK)
        asked_before = task.cancelling()
        self._under_way.add(task)
        try:
            return await call(argument)
        except asyncio.CancelledError:
            self.tell_if_interrupted(task, asked_before, maybe_stored=changes)
            raise
        finally:
            self._under_way.discard(task)
            self.forget(task)
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
            self.interrupt(task)

    def begin_again(self) -> None:
        """Make calls as before."""
        self._are_over = False

    # -- for `make`, and for who makes a call without it ---------------------------

    def interrupt(self, task: asyncio.Task[Any]) -> None:
        """Cancel a task that waits for a call, once."""
        if task not in self.interrupted:
            self.interrupted.add(task)
            task.cancel()

    def tell_if_interrupted(
        self, task: asyncio.Task[Any], asked_before: int, *, maybe_stored: bool
    ) -> None:
        """Of a call that was cancelled: raise what to tell, if that wasn't by the application.

        `asked_before` is how often its task had been asked to end when the call began.
        """
        if task in self.interrupted and task.cancelling() == asked_before + 1:
            raise _stopped(maybe_stored=maybe_stored) from None

    def forget(self, task: asyncio.Task[Any]) -> None:
        """Its call has ended: take back that it was asked to."""
        if task in self.interrupted:
            self.interrupted.discard(task)
            task.uncancel()


def _stopped(*, maybe_stored: bool) -> BackendUnavailableError:
    return BackendUnavailableError(
        "the worker was stopped before the backend answered", maybe_stored=maybe_stored
    )
