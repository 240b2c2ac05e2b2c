"""A server that the tests own, workers on it, and a wire that a test can cut."""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import processes
import pytest
import redis
from processes import WorkerProcess
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError
from support import DEADLINE
from wire import Wire

import offload
from offload.config import parse_address, read_config
from offload_conformance.authors import free_port
from offload_redis import scripts
from offload_redis.conformance import PrivateServer
from offload_redis.driver import RedisDriver
from offload_redis.keys import QueueKeys
from offload_redis.link import Link
from offload_redis.options import COMMON
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


# -- drivers -------------------------------------------------------------------


@pytest.fixture(params=["redis", "redis+fake"])
def server_url(request, server):
    return server.url if request.param == "redis" else f"redis+fake://{secrets.token_hex(6)}"


@pytest.fixture
async def drive(server_url, space):
    """Makes drivers of one server and namespace."""
    drivers = []

    async def drive(**options):
        query = "&".join(f"{name}={value}" for name, value in options.items())
        address = parse_address(f"{server_url}?namespace={space}&{query}".rstrip("&"))
        drivers.append(RedisDriver(read_config(address, COMMON)))
        await drivers[-1].open()
        return drivers[-1]

    yield drive
    for driver in drivers:
        await driver.close()


@pytest.fixture
async def driver(drive):
    return await drive()


@pytest.fixture
async def subscribe():
    """Subscribes; what is subscribed is closed at the end."""
    subscriptions = []

    async def subscribe(driver, *queues):
        subscriptions.append(await driver.subscribe(queues or ("default",)))
        return subscriptions[-1]

    yield subscribe
    for subscription in subscriptions:
        await subscription.close()


@pytest.fixture
def lose_reply(monkeypatch):
    """The next answer to this script is lost, with the connection; says how often it was."""
    exchange = Link._exchange
    lost = []

    def lose(script):
        wanted = [script]

        async def lossy(link, commands):
            replies = await exchange(link, commands)
            ran = any(script.digest in each or script.source in each for each in commands)
            if wanted and ran and not any(isinstance(each, NoScriptError) for each in replies):
                lost.append(wanted.pop())
                raise RedisConnectionError("cut")
            return replies

        monkeypatch.setattr(Link, "_exchange", lossy)
        return lost

    return lose


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


@pytest.fixture
async def wire(server) -> AsyncIterator[Wire]:
    """A wire to the server."""
    async with Wire("redis", server.port) as wire:
        yield wire
