"""What threads perform together travels together, as what tasks perform does by an `Outbox`."""

from __future__ import annotations

import contextlib
import copy
import weakref
from collections.abc import Callable, Sequence
from threading import Event, Lock, get_ident

import msgspec

from offload.driver import Entry
from offload.engine.logs import shown_error
from offload.engine.outbox import MAX_BATCH, MAX_BATCH_BYTES, RESCUE_SECONDS, size_of
from offload.errors import BackendUnavailableError, OffloadError, WorkerStoppedError


class _Call(msgspec.Struct, eq=False, weakref=True):
    """One call of `send`."""

    entries: Sequence[Entry]
    error: OffloadError | None = None
    is_over: bool = False
    """Whether another call has sent these, or has refused them."""
    signal: Lock | None = None
    """Held as long as it has to wait."""

    def end(self, error: OffloadError | None) -> None:
        if not self.is_over:
            self.error = error
            self.is_over = True
            self.go()

    def go(self) -> None:
        if self.signal is not None:
            self.signal.release()


class SyncOutbox:
    """Sends entries in batches, from the threads that call it: there is none of its own.

    A thread that finds nobody sending sends at once. What others bring meanwhile waits, and the
    first of them sends it all when that has ended.

    An exception from outside, as of Ctrl-C, may strike between any two steps. A caller that waits
    checks at intervals that it is still in the line, and that there is a sender.
    """

    def __init__(
        self, enqueue: Callable[[Sequence[Entry]], None], check: Callable[[], None]
    ) -> None:
        """`check` may refuse a call when it takes its place in the line."""
        self._enqueue = enqueue
        self._check = check
        self._lock = Lock()
        self._threads: set[int] = set()
        """Those that are in `send`."""
        self._sender: weakref.ref[_Call] | None = None
        """The call that sends. A dead one was cut off where it could tell nobody."""
        self._waiting: list[_Call] = []
        self._aboard: list[_Call] = []
        """Other calls whose entries the sender has with it."""
        self._passed_over = 0
        """How many calls were waiting, and not taken aboard, when it set out."""
        self._idle: Event | None = None
        """Set when all has been sent, for who waits for that."""

    @property
    def is_amid(self) -> bool:
        """Whether this very thread is in `send`, and so can't wait for its turn.

        As a signal handler that performs finds it, or a handler of the log.
        """
        return get_ident() in self._threads

    @property
    def is_idle(self) -> bool:
        """Whether nothing is on its way, or waits to be."""
        return not self._threads

    def send(self, entries: Sequence[Entry]) -> None:
        """Hand one batch of entries to the driver; return when they are safe."""
        thread = get_ident()
        self._threads.add(thread)  # before the lock: who comes amid all this must not wait for it
        call = _Call(entries)
        try:
            if self._has_to_send(call):
                self._enqueue(self._batch_of(call) if self._waiting else entries)
        except BaseException as error:
            self._leave(call, error)
            raise
        else:
            self._leave(call, None)
        finally:
            self._threads.discard(thread)
            if self._idle is not None and not self._threads:
                self._idle.set()

    def wait_until_idle(self, timeout: float) -> bool:
        """Whether it is idle within this many seconds."""
        self._idle = Event()
        if not self.is_idle:
            self._idle.wait(timeout)
        self._idle = None
        return self.is_idle

    def give_up(self) -> None:
        """Send no more of what waits: the worker was stopped."""
        reason = "the worker was stopped before this was sent to the backend"
        with self._lock:
            self._refuse(len(self._waiting), WorkerStoppedError(reason))

    # -- in the line ----------------------------------------------------------------

    def _has_to_send(self, call: _Call) -> bool:
        """Wait for the turn of a call; False if another one has sent its entries along."""
        with self._lock:
            self._check()
            if (self._sender is None and not self._waiting) or self._is_free():
                self._sender = weakref.ref(call)
                return True
            signal = call.signal = Lock()
            signal.acquire()
            self._waiting.append(call)
            self._go_on()
        while not signal.acquire(timeout=RESCUE_SECONDS):
            if self._is_up(call):
                break
        if call.error is not None:
            raise call.error
        return not call.is_over

    def _is_up(self, call: _Call) -> bool:
        """Whether a call waits no more, which nobody has told it. See that somebody will."""
        with self._lock:
            if not (call.is_over or call in self._waiting or call in self._aboard):
                if self._is_sender(call):
                    return True
                self._waiting.append(call)
            self._go_on()
            return call.is_over

    def _is_sender(self, call: _Call) -> bool:
        return self._sender is not None and self._sender() is call

    def _is_free(self) -> bool:
        """Whether nobody sends, nor is about to."""
        if self._sender is not None and self._sender() is None:
            self._end(BackendUnavailableError(_CUT_OFF, maybe_stored=True))
        return self._sender is None and not self._waiting

    def _go_on(self) -> None:
        """Let the first of the line send, unless somebody does."""
        if not self._is_free() and self._sender is None:
            first = self._waiting.pop(0)
            self._sender = weakref.ref(first)
            first.go()

    def _batch_of(self, call: _Call) -> Sequence[Entry]:
        """The entries of a call that sends, and of those that have come meanwhile."""
        with self._lock:
            entries, size, taken = list(call.entries), size_of(call.entries), 0
            for each in self._waiting:
                size += size_of(each.entries)
                if len(entries) + len(each.entries) > MAX_BATCH or size > MAX_BATCH_BYTES:
                    break
                entries += each.entries
                taken += 1
            self._aboard = self._waiting[:taken]
            del self._waiting[:taken]
            self._passed_over = len(self._waiting)
            return entries

    def _leave(self, call: _Call, error: BaseException | None) -> None:
        """Tell those aboard how it has ended, and let the next one send."""
        with self._lock:
            if self._is_sender(call):
                if error is None and not self._aboard and not self._passed_over:
                    self._sender = None  # as mostly
                else:
                    self._end(error)
            elif call in self._waiting:  # it was interrupted there
                self._waiting.remove(call)
            if self._waiting:
                self._go_on()

    def _end(self, error: BaseException | None) -> None:
        while self._aboard:
            self._aboard[-1].end(None if error is None else _for_another(error))
            self._aboard.pop()
        if isinstance(error, BackendUnavailableError):
            # Else an outage would let each of many batches wait for all before it (PERF-8).
            self._refuse(self._passed_over, BackendUnavailableError(str(error)))
        self._passed_over = 0
        self._sender = None

    def _refuse(self, number: int, error: OffloadError) -> None:
        """Let those at the head of the line wait no longer: nothing of theirs was sent."""
        for each in self._waiting[:number]:
            each.end(_for_another(error))
        del self._waiting[:number]


_CUT_OFF = "the thread that sent this to the backend was cut off"


def _for_another(error: BaseException) -> OffloadError:
    """Copy an error for another thread: it holds frames of the caller that it was raised for."""
    maybe_stored = True
    if isinstance(error, OffloadError):
        maybe_stored = error.maybe_stored
        with contextlib.suppress(Exception):  # of a class that copies badly
            return copy.copy(error)
    reason = shown_error(error) if isinstance(error, Exception) else _CUT_OFF
    return BackendUnavailableError(reason, maybe_stored=maybe_stored)
