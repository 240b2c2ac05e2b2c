"""One connection to one server, for threads without an event loop.

What is made of commands (scripts, the search for a master, the checks of a
server) is written for an event loop. Here it needs none: `SyncLink` blocks where
`Link` waits, so that no coroutine above it is ever suspended, and `finish` runs
one to its end.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Coroutine, Sequence
from queue import Empty, SimpleQueue
from socket import SHUT_RDWR
from time import monotonic
from typing import Any, TypeVar

from redis.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, ResponseError

from offload.forking import close_in_child, keep_in_child
from offload_redis.commands import Command, Commands
from offload_redis.errors import bare, translate

try:
    from hiredis import Reader, pack_command
except ImportError:  # an extra
    CAN_BLOCK = False
else:
    CAN_BLOCK = True
    """Whether there can be a `SyncLink`: it needs a parser that it can feed by itself."""

T = TypeVar("T")

_NOTHING_YET = object()
_BUFFER_BYTES = 65536
_SLACK_SECONDS = 0.05
"""By how much a socket may wait for too long: else its timeout were set for each call."""


def finish(call: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that is never suspended."""
    try:
        call.send(None)
    except StopIteration as ended:
        result: T = ended.value
        return result
    call.close()
    raise RuntimeError("a call of the Redis driver waits for an event loop")


class SyncLink(Commands):
    """As `Link`, but that every call blocks its thread; one call at a time."""

    def __init__(
        self,
        make_connection: Callable[[], AbstractConnection],
        where: str,
        timeout: float,
        wires: Wires,
    ) -> None:
        super().__init__(where)
        self._make_connection = make_connection
        self._timeout = timeout
        self._wires = wires
        self._connection: AbstractConnection | None = None
        self._socket: Any = None
        self._patience = 0.0
        """The timeout of the socket: setting it costs a call of the system."""
        self._descriptor = -1
        self._reader: Any = None
        self._buffer = bytearray(_BUFFER_BYTES)

    async def execute(self, commands: Sequence[Command], *, once: bool = False) -> list[Any]:
        deadline = monotonic() + self._timeout
        sent = False
        try:
            if self._socket is not None:
                sent = True
                try:
                    return self._exchange(commands, deadline)
                except Exception:
                    if once:
                        raise
                    # It may have been dead for long: only now is it noticed.
                    self._disconnect()
            self._connect(deadline)
            sent = True
            return self._exchange(commands, deadline)
        except BaseException as error:
            # Whatever is still to come on it must never be taken for another's reply.
            self._disconnect()
            if isinstance(error, Exception):
                raise translate(error, self.where, maybe_stored=sent) from bare(error)
            raise

    def _exchange(self, commands: Sequence[Command], deadline: float) -> list[Any]:
        reader = self._reader
        packed = [pack_command(tuple(command)) for command in commands]  # type: ignore[arg-type]
        socket = self._socket_until(deadline)
        socket.sendall(packed[0] if len(packed) == 1 else b"".join(packed))
        replies: list[Any] = []
        while len(replies) < len(packed):
            reply = reader.gets()
            if reply is not _NOTHING_YET:
                replies.append(reply)
                continue
            received = self._socket_until(deadline).recv_into(self._buffer)
            if not received:
                raise RedisConnectionError("the server closed the connection")
            reader.feed(self._buffer, 0, received)
        for reply in replies:
            if isinstance(reply, Exception) and not isinstance(reply, ResponseError):
                raise reply  # one with which the server ends the connection
        return replies

    def _socket_until(self, deadline: float) -> Any:
        """The socket, which waits for what comes next until the deadline."""
        left = deadline - monotonic()
        if not self._patience - _SLACK_SECONDS < left <= self._patience:
            if left <= 0:
                raise TimeoutError
            self._socket.settimeout(left)
            self._patience = left
        return self._socket

    def _connect(self, deadline: float) -> None:
        if monotonic() >= deadline:
            raise TimeoutError
        connection = self._wires.connect(self._make_connection(), deadline)
        self._connection = connection
        # redis-py has no public way to these.
        self._socket = connection._sock  # noqa: SLF001
        parser = connection._parser  # noqa: SLF001
        self._patience = -1.0
        self._reader = Reader(
            protocolError=InvalidResponse,
            replyError=parser.parse_error,
            notEnoughData=_NOTHING_YET,
        )
        self._descriptor = self._socket.fileno()
        close_in_child(self._descriptor)
        self._wires.hold(self._socket)

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._wires.let_go(self._socket)
            self._socket = self._reader = None
            keep_in_child(self._descriptor)
            with contextlib.suppress(Exception):
                connection.disconnect()  # type: ignore[no-untyped-call]

    async def drop(self) -> None:
        self._disconnect()

    def __del__(self) -> None:
        # The number of its socket must not be taken for that of another file after a fork.
        with contextlib.suppress(Exception):
            self._disconnect()


class Wires:
    """The sockets of some links, which another thread may cut amid a call, for good."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sockets: list[Any] = []
        self._connecting: SimpleQueue[BaseException | None] | None = None
        self._are_cut = False

    def connect(self, connection: AbstractConnection, deadline: float) -> AbstractConnection:
        """Connect, by a thread of its own: no name server and no handshake keeps to a deadline."""
        answer = SimpleQueue[BaseException | None]()
        is_given_up = threading.Event()

        def connect() -> None:
            error: BaseException | None = None
            try:
                connection.connect()  # type: ignore[no-untyped-call]
            except BaseException as raised:
                error = raised
            answer.put(error)
            if is_given_up.is_set():
                connection.disconnect()  # type: ignore[no-untyped-call]

        with self._lock:
            self._refuse_if_cut()
            self._connecting = answer
        thread = threading.Thread(target=connect, name="offload-redis-connect", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            connect()  # no thread is to be had, as when the interpreter ends
        try:
            error = answer.get(timeout=max(0.0, deadline - monotonic()))
        except BaseException as interruption:
            error = TimeoutError() if isinstance(interruption, Empty) else interruption
        self._connecting = None
        if error is not None:
            is_given_up.set()
            connection.disconnect()  # type: ignore[no-untyped-call]
            raise error
        if thread.ident is not None:
            thread.join()
        return connection

    def hold(self, socket: Any) -> None:
        """This one is in use."""
        with self._lock:
            self._refuse_if_cut()
            self._sockets.append(socket)

    def let_go(self, socket: Any) -> None:
        """It is about to be closed."""
        with self._lock, contextlib.suppress(ValueError):
            self._sockets.remove(socket)

    def cut(self) -> None:
        """Have every call end that is under way, and let none connect again."""
        with self._lock:
            self._are_cut = True
            if self._connecting is not None:
                self._connecting.put(_cut())
            for socket in self._sockets:
                with contextlib.suppress(OSError):
                    socket.shutdown(SHUT_RDWR)

    def _refuse_if_cut(self) -> None:
        if self._are_cut:
            raise _cut()


def _cut() -> RedisConnectionError:
    return RedisConnectionError("the connection was closed by this process")
