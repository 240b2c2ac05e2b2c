"""A TCP proxy between worker and backend, in which the kit cuts the wire.

It counts what each fault really struck: one that hit nothing proves nothing.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Self
from urllib.parse import urlsplit, urlunsplit

from offload_conformance.history import History

CHUNK = 65536


class FaultProxy:
    """Forwards connections to a backend until told otherwise."""

    def __init__(self, history: History, host: str, port: int) -> None:
        self._history = history
        self._backend = (host, port)
        self._links: set[_Link] = set()
        self._accepting: set[asyncio.Task[None]] = set()
        self._refuses_after_cut = False
        self.black_hole = False
        self.latency = 0.0
        self.cut_after: int | None = None
        """Cut a connection when so many more bytes have come from the worker."""
        self.answers_left: int | None = None
        """Let this many answers through, then cut the connection instead of the next one."""
        self.muted = False

    async def __aenter__(self) -> Self:
        await self._listen(0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def _listen(self, port: int) -> None:
        self._server = await asyncio.start_server(self._greet, "127.0.0.1", port)

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for link in list(self._links):
            link.reset()
        if self._accepting:  # nothing of ours may be taken for a leak of the worker's
            await asyncio.wait(self._accepting)

    @property
    def connections(self) -> int:
        """How many connections there are now."""
        return len(self._links)

    def reset(self) -> None:
        """Cut every connection with a TCP reset."""
        self._strike("reset", len(self._links))
        for link in list(self._links):
            link.reset()

    def swallow(self) -> None:
        """From now on bytes go in, and nothing comes out: a half-open connection."""
        self._strike("black hole", len(self._links))
        self.black_hole = True

    def half_open(self) -> None:
        """Swallow what goes over the connections there are; new ones are forwarded."""
        self._strike("half-open", len(self._links))
        for link in self._links:
            link.silent = True

    def refuse(self) -> None:
        """Cut every connection and stop listening: new ones are refused."""
        self._strike("refuse", len(self._links))
        self._server.close()
        for link in list(self._links):
            link.reset()

    def cut_after_bytes(self, count: int) -> None:
        """Cut the connection in the middle of what the worker sends next."""
        self._history.add("fault", kind="cut")
        self.cut_after = count

    def cut_and_refuse_after_bytes(self, count: int) -> None:
        """The same, and no other connection can be made from then on."""
        self.cut_after_bytes(count)
        self._refuses_after_cut = True

    def lose_answers(self, after: int) -> None:
        """Forward requests; after `after` answers, cut the connection instead of the next one."""
        self.answers_left = after

    def mute(self) -> None:
        """From now on requests go in, and no answer comes out."""
        self._history.add("fault", kind="mute")
        self.muted = True

    async def heal(self) -> None:
        """Forward again. Connections that were swallowed are cut: their bytes are lost."""
        for link in list(self._links):
            if self.black_hole or self.muted or link.silent:
                link.reset()
        self._refuses_after_cut = self.black_hole = self.muted = False
        self.cut_after = self.answers_left = None
        if not self._server.is_serving():
            await self._listen(self.port)
        self._history.add("healed")

    def cut(self) -> None:
        """A connection is cut after the bytes that were to be let through."""
        self.cut_after = None
        if self._refuses_after_cut:
            self._server.close()
        self.struck("cut", 1)

    def struck(self, kind: str, connections: int) -> None:
        """A fault hit so many connections."""
        self._history.add("fault_hit", kind=kind, connections=connections)

    def _strike(self, kind: str, connections: int) -> None:
        self._history.add("fault", kind=kind)
        if connections:
            self.struck(kind, connections)

    def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepting = asyncio.create_task(self._accept(reader, writer))
        self._accepting.add(accepting)
        accepting.add_done_callback(self._accepting.discard)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream = await asyncio.open_connection(*self._backend)
        except OSError:
            _abort(writer)
            return
        link = _Link(self, writer, upstream[1])
        self._links.add(link)
        try:
            await asyncio.gather(
                link.forward(reader, upstream[1], from_worker=True),
                link.forward(upstream[0], writer, from_worker=False),
            )
        finally:
            self._links.discard(link)
            writer.close()
            upstream[1].close()


class _Link:
    """One connection through the proxy."""

    def __init__(self, proxy: FaultProxy, *ends: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._ends = ends
        self.silent = False

    def reset(self) -> None:
        for end in self._ends:
            _abort(end)

    async def forward(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, from_worker: bool
    ) -> None:
        proxy = self._proxy
        try:
            while data := await reader.read(CHUNK):
                if proxy.latency:
                    await asyncio.sleep(proxy.latency)
                if self._swallows(from_worker=from_worker):
                    continue
                if from_worker and proxy.cut_after is not None:
                    if len(data) > proxy.cut_after:
                        writer.write(data[: proxy.cut_after])
                        proxy.cut()
                        self.reset()
                        return
                    proxy.cut_after -= len(data)
                if not from_worker and proxy.answers_left is not None:
                    proxy.answers_left -= 1
                    if proxy.answers_left < 0:
                        self.reset()
                        return
                writer.write(data)
                await writer.drain()
            if writer.can_write_eof() and not self.silent:
                writer.write_eof()
        except (ConnectionError, OSError):
            self.reset()

    def _swallows(self, *, from_worker: bool) -> bool:
        if self._proxy.muted and not from_worker:
            self._proxy.struck("mute", 1)
            return True
        return self._proxy.black_hole or self.silent


def _abort(writer: asyncio.StreamWriter) -> None:
    """Close with a reset rather than in good order."""
    connection: socket.socket | None = writer.get_extra_info("socket")
    if connection is not None and connection.fileno() >= 0:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def moved(url: str, host: str, port: int) -> str:
    """The same config string for another host and port."""
    split = urlsplit(url)
    user, at, _ = split.netloc.rpartition("@")
    return urlunsplit(split._replace(netloc=f"{user}{at}{host}:{port}"))
