"""The one thread that uses a connection, so that calls are carried out in order.

A daemon thread with a queue of our own, not an executor: at the exit of the
interpreter an executor refuses work before `atexit` callbacks run, and so a
worker that is stopped there couldn't store its verdicts.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import weakref
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeAlias, TypeVar, TypeVarTuple

from offload import BackendUnavailableError
from offload_sqlite.forks import Gate

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

log = logging.getLogger("offload")

_Deliver: TypeAlias = Callable[[Any, BaseException | None], None]
_Call: TypeAlias = tuple[Callable[..., Any], tuple[Any, ...], _Deliver]


class StoreThread:
    """Runs blocking calls one after the other."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._ended = False
        self._process = os.getpid()
        self._thread = threading.Thread(
            target=_carry_out, args=(self._calls,), name="offload-sqlite", daemon=True
        )
        self._thread.start()
        # The thread ends, too, when its owner is collected.
        weakref.finalize(self, self._calls.put, None).atexit = False

    @property
    def is_inherited(self) -> bool:
        """Whether this process is a fork of the one whose thread it is: here it doesn't run."""
        return self._process != os.getpid()

    async def call(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """Run a function in the thread. Cancelled here, it still runs to its end there.

        Raises:
            BackendUnavailableError: the thread has ended, or is another process's.
        """
        if self._ended or self.is_inherited:
            raise BackendUnavailableError("the database is not open in this process")
        # Not kept in a variable: an error's frames would hold the future that holds the error.
        return await self._begin(function, args)

    def _begin(self, function: Callable[..., T], args: tuple[Any, ...]) -> asyncio.Future[T]:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()

        def deliver(result: Any, error: BaseException | None) -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(_answer, answer, result, error)

        self._calls.put((function, args, deliver))
        return answer

    def submit(self, function: Callable[[*Ts], object], *args: *Ts) -> None:
        """Run a function after what is under way, without waiting for it."""
        if not self._ended:
            self._calls.put((function, args, _log_error))

    def end(self, *, wait: bool) -> None:
        """End the thread after what is under way, and wait for that or not."""
        self._ended = True
        self._calls.put(None)
        if wait and not self.is_inherited:
            self._thread.join()


def _carry_out(calls: SimpleQueue[_Call | None]) -> None:
    gate = Gate()
    while (call := calls.get()) is not None:
        with gate:
            _carry_out_one(*call)
        del call  # an idle thread keeps nothing alive


def _carry_out_one(function: Callable[..., Any], args: tuple[Any, ...], deliver: _Deliver) -> None:
    try:
        result = function(*args)
    except BaseException as error:
        deliver(None, error)
    else:
        deliver(result, None)
    finally:
        del function, args, deliver  # what an error's frames hold lives as long as the error


def _answer(answer: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if answer.done():  # its caller was cancelled
        return
    if error is None:
        answer.set_result(result)
    elif isinstance(error, StopIteration):
        answer.set_exception(RuntimeError(f"a call raised {error!r}"))  # no future takes it
    else:
        answer.set_exception(error)


def _log_error(_result: object, error: BaseException | None) -> None:
    if error is not None:
        log.warning("a database could not be closed cleanly: %s", error)
