"""Brokers that the tests own, workers on them, and a wire that a test can cut."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import aiormq
import processes
import pytest
from aiormq import spec
from processes import WorkerProcess, free_port
from support import DEADLINE

import offload
from offload_amqp.conformance import DEFAULT_PROGRAM, PrivateBroker

CONTROL = str(Path(DEFAULT_PROGRAM).with_name("rabbitmqctl"))

# A publish from a client, and what is in it; an acknowledgement.
PUBLISH = b"\x00\x3c\x00\x28"
ACKNOWLEDGE = b"\x00\x00\x00\x0d\x00\x3c\x00\x50"
DELIVER = b"\x00\x3c\x00\x3c"
DELAYED = b"offload-hold"
BURIED = b"offload-died"


class OwnBroker(PrivateBroker):
    """A broker of ours, and its control program."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"amqp://127.0.0.1:{self.port}"
        super().__init__(DEFAULT_PROGRAM, self.port, folder)

    def end(self) -> None:
        """The port mapper, too: the broker started it, but not in its process group."""
        super().end()
        command = ["epmd", "-port", self._environment()["ERL_EPMD_PORT"], "-kill"]
        for _ in range(50):
            # It refuses as long as it believes that a node lives.
            done = subprocess.run(command, capture_output=True, check=False)
            if b"Killed" in done.stdout or b"annot connect" in done.stdout + done.stderr:
                return
            time.sleep(0.02)

    async def control(self, *command: str) -> str:
        environment = self._environment()
        node = environment["RABBITMQ_NODENAME"]
        process = await asyncio.create_subprocess_exec(
            *(CONTROL, "--node", node, "--quiet", *command),
            env=environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await asyncio.wait_for(process.communicate(), 3 * DEADLINE)
        assert process.returncode == 0, output.decode()
        return output.decode()


def _own(folder: Path) -> Iterator[OwnBroker]:
    broker = OwnBroker(folder)
    try:
        asyncio.run(broker.start())
        yield broker
    finally:
        broker.end()


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnBroker]:
    """The broker of all tests that do it no harm."""
    yield from _own(tmp_path_factory.mktemp("rabbitmq"))


@pytest.fixture(scope="session")
def struck_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnBroker]:
    """The broker of those that do. It runs again when they end."""
    yield from _own(tmp_path_factory.mktemp("struck-rabbitmq"))


@pytest.fixture
def space() -> str:
    """A namespace of the test's own."""
    return f"test-{secrets.token_hex(6)}"


@pytest.fixture
def make(broker, space, wire, connect):
    """Makes workers in the test's namespace. They stop before what they connect to."""

    def make(url: str = broker.url, **options: object) -> offload.Worker:
        worker: offload.Worker = connect(url, **{"namespace": space, "grace": "1s", **options})
        return worker

    return make


@pytest.fixture
def process(broker, space):
    """Runs a worker in a process of its own, in the test's namespace."""

    @asynccontextmanager
    async def run(
        url: str = broker.url,
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


# -- a stranger ------------------------------------------------------------------


class Stranger:
    """Another program at the same broker."""

    def __init__(self, url: str, space: str) -> None:
        self._url = url
        self._space = space

    @asynccontextmanager
    async def _channel(self) -> AsyncIterator[aiormq.Channel]:
        connection = await aiormq.connect(f"{self._url.replace('//', '//guest:guest@')}//")
        try:
            yield await connection.channel()
        finally:
            await connection.close()

    async def declare(self, name: str, **arguments: Any) -> None:
        """Declare a durable queue, whose arguments are spelled with underscores."""
        spelled = {f"x-{key.replace('_', '-')}": value for key, value in arguments.items()}
        async with self._channel() as channel:
            await channel.queue_declare(f"{self._space}.{name}", durable=True, arguments=spelled)

    async def delete(self, name: str) -> None:
        async with self._channel() as channel:
            await channel.queue_delete(f"{self._space}.{name}")

    async def publish(self, name: str, body: bytes, **properties: Any) -> None:
        async with self._channel() as channel:
            await channel.basic_publish(
                body,
                routing_key=f"{self._space}.{name}",
                properties=spec.Basic.Properties(**properties),
                mandatory=True,
            )

    async def take(self, name: str, count: int = 1) -> list[Any]:
        """Take so many messages, when they are there."""
        taken: list[Any] = []
        async with self._channel() as channel, asyncio.timeout(DEADLINE):
            while len(taken) < count:
                message = await channel.basic_get(f"{self._space}.{name}", no_ack=True)
                if message.delivery_tag is None:
                    await asyncio.sleep(0.02)
                else:
                    taken.append(message)
        return taken

    async def until(self, name: str, ready: int, consumers: int | None = None) -> None:
        """Wait until a queue is there, and so many messages are ready in it."""
        async with asyncio.timeout(DEADLINE):
            while True:
                with contextlib.suppress(aiormq.exceptions.ChannelNotFoundEntity):
                    async with self._channel() as channel:
                        await self._until(channel, f"{self._space}.{name}", ready, consumers)
                        return
                await asyncio.sleep(0.02)

    async def _until(
        self, channel: aiormq.Channel, name: str, ready: int, consumers: int | None
    ) -> None:
        while True:
            found = await channel.queue_declare(name, passive=True)
            if found.message_count == ready and consumers in (None, found.consumer_count):
                return
            await asyncio.sleep(0.02)


@pytest.fixture
def stranger(broker, space) -> Stranger:
    """Another program at the broker."""
    return Stranger(broker.url, space)


@pytest.fixture
def drained(stranger):
    """Stops a worker, and sees that the broker keeps no job of the test."""

    async def drained(worker: offload.Worker, queue: str = "default", dead: int = 0) -> None:
        report = await worker.stop()
        assert not report.returned
        await stranger.until(f"q.{queue}", ready=0, consumers=0)
        await stranger.until(f"soon.{queue}", ready=0, consumers=0)
        await stranger.until(f"dead.{queue}", ready=dead, consumers=0)

    return drained


# -- the wire --------------------------------------------------------------------


class Trap:
    """What shall happen to the next request with these bytes in it."""

    def __init__(self, token: bytes, answered: bool, strike: Callable[[], object]) -> None:
        self.token = token
        self.answered = answered
        self.strike = strike
        self.struck = asyncio.Event()

    async def until_struck(self) -> None:
        await asyncio.wait_for(self.struck.wait(), DEADLINE)


class Wire:
    """A proxy in front of a broker, in which a test cuts connections, and sees what they carry."""

    def __init__(self, port: int) -> None:
        self._broker_port = port
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.traps: list[Trap] = []
        self.refusing = False
        self.black_hole = False
        self.cut_request: int | None = None
        self.cut_reply: int | None = None
        self.cuts = 0
        self.accepted = 0
        self.deliveries = 0

    def trap(
        self, token: bytes, strike: Callable[[], object] = lambda: None, *, answered: bool = False
    ) -> Trap:
        """Strike, and cut the connection, before the next such request comes to the broker; or,
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

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.accepted += 1
        link = _Link(self, writer)
        try:
            if self.refusing:
                return
            upstream, link.up = await asyncio.open_connection("127.0.0.1", self._broker_port)
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
        self.url = f"amqp://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
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

    def _spring(self, trap: Trap) -> None:
        trap.strike()
        trap.struck.set()
        self.reset()

    async def requests(self, reader: asyncio.StreamReader) -> None:
        wire = self._wire
        assert self.up is not None
        while data := await reader.read(1 << 16):
            if self.loses_requests or wire.black_hole:
                continue
            for trap in wire.traps:
                if trap.token in data:
                    wire.traps.remove(trap)
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
            wire.deliveries += data.count(DELIVER)
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


@pytest.fixture
async def wire(broker) -> AsyncIterator[Wire]:
    """A wire to the broker."""
    async with Wire(broker.port) as wire:
        yield wire


@pytest.fixture
def string_wire(broker) -> Callable[[], Wire]:
    """More wires to the broker; to be entered."""
    return lambda: Wire(broker.port)
