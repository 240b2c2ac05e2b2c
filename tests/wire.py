"""A wire between a worker and its backend, which a test can cut at any byte."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from typing import Self

from support import DEADLINE


class Trap:
    """What shall happen to the next request with these bytes in it."""

    def __init__(self, token: bytes, answered: bool, strike: Callable[[], object]) -> None:
        self.token = token
        self.answered = answered
        self.strike = strike
        self.seen = asyncio.Event()
        self.struck = asyncio.Event()

    async def until_struck(self) -> None:
        await asyncio.wait_for(self.struck.wait(), DEADLINE)


class Wire:
    """A proxy in front of a server, in which a test cuts connections, and sees what they carry."""

    def __init__(self, scheme: str, port: int) -> None:
        self._scheme = scheme
        self._server_port = port
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.traps: list[Trap] = []
        self.refusing = False
        self.black_hole = False
        self.cut_request: int | None = None
        self.cut_reply: int | None = None
        self.cuts = 0
        self.accepted = 0
        self.swallowed = bytearray()

    def trap(
        self, token: bytes, strike: Callable[[], object] = lambda: None, *, answered: bool = False
    ) -> Trap:
        """Strike, and cut the connection, before the next such request comes to the server; or,
        if it is to be `answered`, when something comes back on that connection."""
        trap = Trap(token, answered, strike)
        self.traps.append(trap)
        return trap

    def reset(self) -> int:
        """Cut every connection there is."""
        links = list(self._links)
        for link in links:
            link.reset()
        return len(links)

    def half_open(self, *, requests: bool = True, replies: bool = True) -> int:
        """Lose whatever is sent, this way or that, on the connections there are."""
        for link in self._links:
            link.loses_requests, link.loses_replies = requests, replies
        return len(self._links)

    def forge_reply(self, data: bytes) -> int:
        """Send this on every connection there is, as if it came from the server."""
        for link in self._links:
            link.forge_reply(data)
        return len(self._links)

    def see_reply(self, data: bytes) -> None:
        """Called with whatever the server sends, as it comes."""

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.accepted += 1
        link = _Link(self, writer)
        try:
            if self.refusing:
                return
            upstream, link.up = await asyncio.open_connection("127.0.0.1", self._server_port)
            if self.refusing:
                return
            self._links.add(link)
            await asyncio.gather(link.requests(reader), link.replies(upstream))
        except OSError:
            pass
        finally:
            self._links.discard(link)
            link.reset()
            self._tasks.discard(task)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"{self._scheme}://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.refusing = True
        self.reset()
        if self._tasks:
            await asyncio.wait(self._tasks)


class _Link:
    """One connection through the wire."""

    def __init__(self, wire: Wire, down: asyncio.StreamWriter) -> None:
        self._wire = wire
        self._down = down
        self.up: asyncio.StreamWriter | None = None
        self.loses_requests = self.loses_replies = False
        self._sprung: Trap | None = None

    def reset(self) -> None:
        for end in (self._down, self.up):
            if end is None:
                continue
            ends_socket = end.get_extra_info("socket")
            if ends_socket is not None and ends_socket.fileno() >= 0:
                linger = struct.pack("ii", 1, 0)
                with contextlib.suppress(OSError):
                    ends_socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            end.transport.abort()

    def forge_reply(self, data: bytes) -> None:
        self._down.write(data)

    def _spring(self, trap: Trap) -> None:
        trap.strike()
        trap.struck.set()
        self.reset()

    async def requests(self, reader: asyncio.StreamReader) -> None:
        wire = self._wire
        assert self.up is not None
        while data := await reader.read(1 << 16):
            if self.loses_requests or wire.black_hole:
                wire.swallowed += data
                continue
            for trap in wire.traps:
                if trap.token in data:
                    wire.traps.remove(trap)
                    trap.seen.set()
                    if not trap.answered:
                        self._spring(trap)
                        return
                    self._sprung = trap
                    break
            if wire.cut_request is not None:
                data, wire.cut_request = data[: wire.cut_request], None
                wire.cuts += 1
                self.up.write(data)
                await self.up.drain()
                self.reset()
                return
            self.up.write(data)
            await self.up.drain()
        self.reset()

    async def replies(self, reader: asyncio.StreamReader) -> None:
        wire = self._wire
        while data := await reader.read(1 << 16):
            wire.see_reply(data)
            if self._sprung is not None:
                self._spring(self._sprung)
                return
            if self.loses_replies or wire.black_hole:
                continue
            if wire.cut_reply is not None:
                data, wire.cut_reply = data[: wire.cut_reply], None
                wire.cuts += 1
                self._down.write(data)
                await self._down.drain()
                # In good order, or the reset would overtake these bytes.
                self._down.close()
                return
            self._down.write(data)
            await self._down.drain()
        self.reset()
