"""One connection to one server, for threads without an event loop.

What is made of commands (scripts, the search for a master, the checks of a
server) is written for an event loop. Here it needs none: `SyncLink` blocks where
`Link` waits, so that no coroutine above it is ever suspended, and `finish` runs
one to its end.
"""

from __future__ import annotations

import contextlib
import math
import struct
import sys
import threading
from collections.abc import Callable, Coroutine, Sequence
from queue import Empty, SimpleQueue
from socket import SHUT_RDWR, SO_RCVTIMEO, SOL_SOCKET
from ssl import SSLSocket
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
_SMALL_BYTES = 4096
"""What a buffer of the system's that is empty takes at once, however small it is."""
_SLACK_SECONDS = 0.05
"""By how much a read may take too long: else its time would have to be set for each."""


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
        self._kernel_waits = False
        """Whether it is the kernel that keeps the time of a read. With a timeout of Python's, each
        read and each write would be one more call of the system."""
        self._patience = 0.0
        """How long a read may take now: to say so costs a call of the system, too."""
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
        self._send(packed[0] if len(packed) == 1 else b"".join(packed), deadline)
        replies: list[Any] = []
        while len(replies) < len(packed):
            reply = reader.gets()
            if reply is not _NOTHING_YET:
                replies.append(reply)
                continue
            received = self._receive(deadline)
            reader.feed(self._buffer, 0, received)
        for reply in replies:
            if isinstance(reply, Exception) and not isinstance(reply, ResponseError):
                raise reply  # one with which the server ends the connection
        return replies

    def _send(self, data: bytes, deadline: float) -> None:
        if self._kernel_waits and len(data) <= _SMALL_BYTES:
            self._socket.sendall(data)  # there is room for it, since nothing else is on its way
            return
        self._socket.settimeout(_left(deadline))
        self._socket.sendall(data)
        self._socket.settimeout(None)
        self._patience = 0.0

    def _receive(self, deadline: float) -> int:
        """Read what has come into the buffer, and return how many bytes."""
        left = deadline - monotonic()
        if not self._patience - _SLACK_SECONDS < left <= self._patience:
            self._wait_at_most(_left(deadline))
        try:
            received: int = self._socket.recv_into(self._buffer)
        except BlockingIOError:
            raise TimeoutError from None
        if not received:
            raise RedisConnectionError("the server closed the connection")
        return received

    def _wait_at_most(self, seconds: float) -> None:
        self._patience = seconds
        if self._kernel_waits:
            whole, parts = divmod(math.ceil(seconds * 1_000_000), 1_000_000)
            self._socket.setsockopt(SOL_SOCKET, SO_RCVTIMEO, struct.pack("ll", whole, parts))
        else:
            self._socket.settimeout(seconds)

    def _connect(self, deadline: float) -> None:
        _left(deadline)
        connection = self._wires.connect(self._make_connection(), deadline)
        self._connection = connection
        # redis-py has no public way to these.
        self._socket = connection._sock  # noqa: SLF001
        parser = connection._parser  # noqa: SLF001
        self._socket.settimeout(None)
        self._kernel_waits = sys.platform == "linux" and not isinstance(self._socket, SSLSocket)
        self._patience = 0.0
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


def _left(deadline: float) -> float:
    """The seconds until then; raises TimeoutError when there are none."""
    left = deadline - monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _cut() -> RedisConnectionError:
    return RedisConnectionError("the connection was closed by this process")
