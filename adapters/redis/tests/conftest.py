"""A server that the tests own, workers on it, and a wire that a test can cut."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import struct
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

import processes
import pytest
import redis
from processes import WorkerProcess, free_port
from support import DEADLINE

import offload
from offload_redis import scripts
from offload_redis.conformance import PrivateServer
from offload_redis.keys import QueueKeys
from offload_redis.scripts import Script

PROGRAM = "redis-server"
SCRIPTS = [each for each in vars(scripts).values() if isinstance(each, Script)]


def client_of(port: int) -> redis.Redis:
    return redis.Redis(port=port, decode_responses=False)


class OwnServer(PrivateServer):
    """A server of ours that knows every script from the start."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        super().__init__(PROGRAM, self.port, folder, options)

    async def start(self) -> None:
        await super().start()
        with client_of(self.port) as client:
            for script in SCRIPTS:
                client.script_load(script.source)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnServer]:
    """The server of all tests that do it no harm."""
    server = OwnServer(tmp_path_factory.mktemp("redis"))
    try:
        asyncio.run(server.start())
        yield server
    finally:
        server.end()


@pytest.fixture
async def start_server(tmp_path: Path) -> AsyncIterator[Callable[..., object]]:
    """Starts servers that the test may strike."""
    servers: list[OwnServer] = []

    async def start(*options: str) -> OwnServer:
        folder = tmp_path / f"redis-{len(servers)}"
        folder.mkdir()
        servers.append(OwnServer(folder, *options))
        await servers[-1].start()
        return servers[-1]

    yield start
    for server in servers:
        server.end()


@pytest.fixture
def space() -> str:
    """A namespace of the test's own."""
    return f"test-{secrets.token_hex(6)}"


@pytest.fixture
def keys(space: str) -> QueueKeys:
    """Where the queue `default` lies."""
    return QueueKeys(space, "default", "nobody")


@pytest.fixture
def store(server: OwnServer) -> Iterator[redis.Redis]:
    """A foreign client of the server."""
    with client_of(server.port) as client:
        yield client


@pytest.fixture
def clients() -> Iterator[Callable[[int], redis.Redis]]:
    """Makes foreign clients of other servers."""
    made: list[redis.Redis] = []

    def make(port: int) -> redis.Redis:
        made.append(client_of(port))
        return made[-1]

    yield make
    for client in made:
        client.close()


@pytest.fixture
def make(server, space, wire, start_server, connect):
    """Makes workers in the test's namespace. They stop before what they connect to."""

    def make(url: str = server.url, **options: object) -> offload.Worker:
        worker: offload.Worker = connect(url, **{"namespace": space, "grace": "1s", **options})
        return worker

    return make


@pytest.fixture
def idle():
    """Waits until a queue holds this, and nothing else."""

    async def idle(worker: offload.Worker, queue: str = "default", **counts: int) -> None:
        wanted = offload.QueueCounts(**counts)
        async with asyncio.timeout(DEADLINE):
            while (await worker.counts()).get(queue, offload.QueueCounts()) != wanted:
                await asyncio.sleep(0.02)

    return idle


@pytest.fixture
def until_extended():
    """Waits until the lease of the queue is, well before it runs out."""

    async def until_extended(client: redis.Redis, keys: QueueKeys) -> None:
        ((_, until),) = client.zrange(keys.leases, 0, -1, withscores=True)
        async with asyncio.timeout(0.9):
            while client.zrange(keys.leases, 0, -1, withscores=True)[0][1] == until:
                await asyncio.sleep(0.02)

    return until_extended


# -- processes -----------------------------------------------------------------


@pytest.fixture
def process(server, space):
    """Runs a worker in a process of its own, in the test's namespace."""

    @asynccontextmanager
    async def run(
        url: str = server.url,
        environment: dict[str, str] | None = None,
        ready: bool = True,
        **options: object,
    ) -> AsyncIterator[WorkerProcess]:
        options = {"namespace": space, **options}
        query = "&".join(f"{name}={value}" for name, value in options.items())
        started = await asyncio.create_subprocess_exec(
            *(sys.executable, processes.__file__, f"{url}?{query}"),
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, **(environment or {})},
        )
        worker = WorkerProcess(started)
        try:
            if ready:
                await worker.until("ready")
            yield worker
        finally:
            await worker.kill()

    return run


# -- the wire --------------------------------------------------------------------


class Trap:
    """What shall happen to the next request with these bytes in it."""

    def __init__(self, token: str, answered: bool, strike: Callable[[], object]) -> None:
        self.token = token.encode()
        self.answered = answered
        self.strike = strike
        self.seen = asyncio.Event()
        self.struck = asyncio.Event()

    async def until_struck(self) -> None:
        await asyncio.wait_for(self.struck.wait(), DEADLINE)


class Wire:
    """A proxy in front of a server, in which a test cuts connections, and sees what they carry."""

    def __init__(self, port: int) -> None:
        self._server_port = port
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.traps: list[Trap] = []
        self.refusing = False
        self.black_hole = False
        self.cut_request: int | None = None
        self.cut_reply: int | None = None
        self.cuts = 0
        self.swallowed = bytearray()

    def trap(
        self, token: str | Script, strike: Callable[[], object], *, answered: bool = False
    ) -> Trap:
        """Strike, and cut the connection, before the next such request comes to the server; or,
        if it is to be `answered`, when its answer is on the way back."""
        trap = Trap(token.digest if isinstance(token, Script) else token, answered, strike)
        self.traps.append(trap)
        return trap

    def reset(self) -> int:
        """Cut every connection there is."""
        links = list(self._links)
        for link in links:
            link.reset()
        return len(links)

    def half_open(self) -> int:
        """Lose whatever is sent on the connections there are."""
        for link in self._links:
            link.silent = True
        return len(self._links)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
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
        self.url = f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
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
        self.silent = False
        self._sprung: Trap | None = None

    def reset(self) -> None:
        for end in (self._down, self.up):
            if end is None:
                continue
            ends_socket = end.get_extra_info("socket")
            if ends_socket is not None and ends_socket.fileno() >= 0:
                linger = struct.pack("ii", 1, 0)
                ends_socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            end.transport.abort()

    def _spring(self, trap: Trap) -> None:
        trap.strike()
        trap.struck.set()
        self.reset()

    async def requests(self, reader: asyncio.StreamReader) -> None:
        wire = self._wire
        assert self.up is not None
        while data := await reader.read(1 << 16):
            if self.silent or wire.black_hole:
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
            if self._sprung is not None:
                self._spring(self._sprung)
                return
            if self.silent or wire.black_hole:
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


@pytest.fixture
async def wire(server) -> AsyncIterator[Wire]:
    """A wire to the server."""
    async with Wire(server.port) as wire:
        yield wire
