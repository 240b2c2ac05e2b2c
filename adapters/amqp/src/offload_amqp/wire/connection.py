"""A connection. It lives once: when it is lost, so is all that was made on it."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import Any, cast

from pamqp import commands
from pamqp.base import Frame

from offload.forking import close_in_child, keep_in_child
from offload_amqp.wire.channel import Channel
from offload_amqp.wire.errors import BlockedError, ClosedError, LostError
from offload_amqp.wire.frames import (
    FRAME_MAX,
    HEARTBEAT,
    HEARTBEAT_FRAME,
    METHOD,
    PROTOCOL,
    Splitter,
    method_frame,
    read_method,
)

SILENT_HEARTBEATS = 2
"""After this many heartbeats without a sign either side takes the other for dead."""
MAX_REASON_CHARS = 300
"""Length of what an error says of a frame that can't be read."""
_WISHES = {
    "publisher_confirms": True,
    "basic.nack": True,
    "consumer_cancel_notify": True,
    "connection.blocked": True,
    "authentication_failure_close": True,
}


class Connection(asyncio.Protocol):
    """Made by `connect`."""

    def __init__(self, heartbeat: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._heartbeat = heartbeat
        self._splitter = Splitter()
        self._channels: dict[int, Channel] = {}
        self._replies: asyncio.Queue[Frame] = asyncio.Queue()
        self._heard = self._loop.time()
        self._beat: asyncio.TimerHandle | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._farewell = asyncio.Event()
        self._gone = asyncio.Event()
        self._descriptor: int | None = None
        self.frame_max = FRAME_MAX
        self.error: Exception | None = None
        """Why it is lost; none while it lives."""
        self.blocked = ""
        """Why the broker takes no messages; nothing while it does."""

    # -- the beginning and the end ------------------------------------------------

    async def _open(self, user: str, password: str, vhost: str) -> None:
        self.write(PROTOCOL)
        await self._reply(commands.Connection.Start)
        self._send_login(user, password)
        tune: Any = await self._reply(commands.Connection.Tune)
        self.frame_max = min(tune.frame_max or FRAME_MAX, FRAME_MAX)
        self._send(commands.Connection.TuneOk(tune.channel_max, self.frame_max, self._heartbeat))
        self._beat = self._loop.call_later(self._heartbeat / 2, self._on_beat, self._loop.time())
        self._send(commands.Connection.Open(virtual_host=vhost))
        await self._reply(commands.Connection.OpenOk)

    def _send_login(self, user: str, password: str) -> None:
        """In a frame of its own, which is no part of a traceback when the login is refused."""
        self._send(
            commands.Connection.StartOk(
                client_properties={"product": "offload", "capabilities": dict(_WISHES)},
                mechanism="PLAIN",
                response=f"\0{user}\0{password}",
            )
        )

    async def _reply(self, kind: type[Frame]) -> Frame:
        reply = await self._replies.get()
        if self.error is not None:
            raise self.error
        if not isinstance(reply, kind):
            raise LostError(f"the broker answers {reply.name} for {kind.name}")
        return reply

    async def close(self, timeout: float) -> None:
        """Take leave, for so many seconds at most, and disconnect."""
        if self._loop.is_closed():
            self._close_without_loop()
            return
        if self.error is None:
            self._send(commands.Connection.Close(200, "", 0, 0))
            try:
                async with asyncio.timeout(timeout):
                    await self._farewell.wait()
            except TimeoutError:
                pass
            finally:
                self.abort(LostError("it was closed"))
        await self._gone.wait()

    def _close_without_loop(self) -> None:
        """Close the socket of a connection whose event loop was closed under it."""
        self.error = self.error or LostError("its event loop was closed")
        self._release_descriptor()
        # What asyncio would do on the next turn of the loop. Without it the socket is open
        # until the collector finds it. uvloop closes its own with the loop.
        tls = getattr(self._transport, "_ssl_protocol", None)
        under: Any = getattr(tls, "_transport", None) or self._transport
        with contextlib.suppress(Exception):
            under._call_connection_lost(None)  # noqa: SLF001

    async def end(self, error: Exception) -> None:
        """Disconnect at once, and return when nothing is left of it."""
        self.abort(error)
        await self._gone.wait()

    def abort(self, error: Exception) -> None:
        """Disconnect at once. Whatever waits for this connection gets the error."""
        if self.error is not None:
            return
        self.error = error
        if self._beat is not None:
            self._beat.cancel()
        with contextlib.suppress(Exception):  # it may be half gone: what is left of it goes now
            self._transport.abort()
        self._writable.set()
        self._farewell.set()
        self._replies.put_nowait(commands.Connection.CloseOk())  # wakes who waits for a reply
        for channel in list(self._channels.values()):
            channel.end(error)

    def _on_beat(self, planned: float) -> None:
        now = self._loop.time()
        half = self._heartbeat / 2
        # If the loop was held up, what the broker said meanwhile is not read yet.
        if now - planned < 2 * half and now - self._heard > SILENT_HEARTBEATS * self._heartbeat:
            self.abort(LostError("it is silent"))
            return
        self.write(HEARTBEAT_FRAME)
        self._beat = self._loop.call_later(half, self._on_beat, now + half)

    @property
    def is_silent(self) -> bool:
        """Whether the broker has been silent long enough to have given up on us, too."""
        return self._loop.time() - self._heard > SILENT_HEARTBEATS * self._heartbeat

    # -- writing ------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send this; without effect on a connection that is lost."""
        if self.error is not None:
            return
        try:
            self._transport.write(data)
        except Exception as error:  # from a transport that is going down, whatever Python says
            lost = LostError(f"it can't be written to: {error!r}"[:MAX_REASON_CHARS])
            lost.__cause__ = error
            self.abort(lost)

    def _send(self, method: Frame) -> None:
        self.write(method_frame(method, 0))

    async def writable(self) -> None:
        """Return when there is room for more to be sent."""
        await self._writable.wait()

    # -- what asyncio calls -------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # No check by isinstance: uvloop's transports are asyncio's by behaviour, not by class.
        self._transport = cast("asyncio.Transport", transport)
        self._descriptor = _descriptor_of(transport)
        if self._descriptor is not None:
            close_in_child(self._descriptor)

    def connection_lost(self, exc: Exception | None) -> None:
        self._release_descriptor()
        error = LostError(str(exc) if exc else "the broker has hung up")
        error.__cause__ = exc
        self.abort(error)
        self._gone.set()

    def _release_descriptor(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            keep_in_child(descriptor)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        self._heard = self._loop.time()
        try:
            for kind, number, payload in self._splitter.split(data):
                if number == 0:
                    self._receive(kind, payload)
                elif number in self._channels:
                    self._channels[number].receive(kind, payload)
                if self.error is not None:
                    return
        except LostError as error:
            self.abort(error)
        except Exception as error:  # whatever it is, it must not leave half a stream behind
            lost = LostError(f"a frame can't be read: {error!r}"[:MAX_REASON_CHARS])
            lost.__cause__ = error
            self.abort(lost)

    def _receive(self, kind: int, payload: bytes) -> None:
        if kind == HEARTBEAT:
            return
        if kind != METHOD:
            raise LostError("the broker sends content outside of a channel")
        method: Any = read_method(payload)
        if isinstance(method, commands.Connection.Close):
            self._send(commands.Connection.CloseOk())
            self.abort(ClosedError(method.reply_code or 0, method.reply_text))
        elif isinstance(method, commands.Connection.CloseOk):
            self._farewell.set()
        elif isinstance(method, commands.Connection.Blocked):
            self.blocked = method.reason or "blocked"
            for channel in self._channels.values():
                channel.fail_publishes(BlockedError(self.blocked))
        elif isinstance(method, commands.Connection.Unblocked):
            self.blocked = ""
        else:
            self._replies.put_nowait(method)

    # -- channels -----------------------------------------------------------------

    async def open_channel(self, *, confirms: bool = False) -> Channel:
        """A new channel, with publisher confirms or without.

        Raises:
            WireError: the connection is lost, or the broker refuses.
        """
        if self.error is not None:
            raise self.error
        number = next(n for n in range(1, 65536) if n not in self._channels)
        channel = self._channels[number] = Channel(self, number)
        await channel.call(commands.Channel.Open())
        if confirms:
            await channel.call(commands.Confirm.Select())
        return channel

    def forget(self, number: int) -> None:
        """A channel is closed on both sides; its number may be used again."""
        self._channels.pop(number, None)


async def connect(
    host: str,
    port: int,
    *,
    user: str,
    password: str,
    vhost: str,
    heartbeat: int,
    context: ssl.SSLContext | None = None,
) -> Connection:
    """Connect and log in. `heartbeat` is in seconds. The caller sets the time that it may take.

    Raises:
        OSError: nothing listens there, or TLS fails.
        WireError: the broker refuses us, or what is there is no broker.
    """
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(
        lambda: Connection(heartbeat), host, port, ssl=context
    )
    try:
        await connection._open(user, password, vhost)  # noqa: SLF001 - its other half
    except BaseException:
        await connection.end(LostError("it was never open"))
        raise
    return connection


def _descriptor_of(transport: asyncio.BaseTransport) -> int | None:
    sock = transport.get_extra_info("socket")
    descriptor = -1 if sock is None else sock.fileno()
    return descriptor if descriptor >= 0 else None
