"""Brokers that the tests own, workers on them, and a wire that a test can cut."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiormq
import processes
import pytest
from aiormq import spec
from processes import WorkerProcess
from support import DEADLINE
from wire import Wire

import offload
from offload import Delivery, Failure
from offload.config import parse_address
from offload_amqp.conformance import DEFAULT_PROGRAM, PrivateBroker
from offload_amqp.connection import Broker, Line
from offload_amqp.messages import Message
from offload_amqp.names import Names
from offload_amqp.options import config_of
from offload_amqp.publisher import Publisher
from offload_amqp.routing import Router
from offload_amqp.topology import Topology
from offload_amqp.wire.frames import FRAME_MAX
from offload_conformance.authors import free_port

CONTROL = str(Path(DEFAULT_PROGRAM).with_name("rabbitmqctl"))

DELIVER = b"\x00\x3c\x00\x3c"


class OwnBroker(PrivateBroker):
    """A broker of ours, and its control program."""

    def __init__(self, folder: Path, settings: str = "", port: int | None = None) -> None:
        self.port = port or free_port()
        self.url = f"amqp://127.0.0.1:{self.port}"
        super().__init__(DEFAULT_PROGRAM, self.port, folder, settings)
        self.name = self._environment()["RABBITMQ_NODENAME"]

    def add_user(self, name: str, password: str) -> None:
        self.ask("PUT", f"users/{name}", {"password": password, "tags": ""})

    def permit(self, user: str, vhost: str = "/", configure: str = ".*") -> None:
        """Let a user in, to write and to read everything."""
        permissions = {"configure": configure, "write": ".*", "read": ".*"}
        self.ask("PUT", f"permissions/{quote(vhost, safe='')}/{user}", permissions)

    def add_vhost(self, name: str) -> None:
        """Add a vhost, and let the user in who is there from the start."""
        self.ask("PUT", f"vhosts/{quote(name, safe='')}", {})
        self.permit("guest", name)

    async def control(self, *command: str) -> str:
        process = await asyncio.create_subprocess_exec(
            *(CONTROL, "--node", self.name, "--quiet", *command),
            env=self._environment(),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await asyncio.wait_for(process.communicate(), 3 * DEADLINE)
        assert process.returncode == 0, output.decode()
        return output.decode()


@pytest.fixture(scope="session")
def run_broker(tmp_path_factory: pytest.TempPathFactory):
    """Runs a broker, as long as its context lasts."""

    @contextmanager
    def run_broker(settings: str = "") -> Iterator[OwnBroker]:
        broker = OwnBroker(tmp_path_factory.mktemp("rabbitmq"), settings)
        try:
            asyncio.run(broker.start())
            yield broker
        finally:
            broker.end()

    return run_broker


@pytest.fixture(scope="session")
def broker(run_broker) -> Iterator[OwnBroker]:
    """The broker of all tests that do it no harm."""
    with run_broker() as broker:
        yield broker


@pytest.fixture(scope="session")
def struck_broker(run_broker) -> Iterator[OwnBroker]:
    """The broker of those that do. It runs again when they end."""
    with run_broker() as broker:
        yield broker


@pytest.fixture
def space() -> str:
    """A namespace of the test's own."""
    return f"test-{secrets.token_hex(6)}"


@pytest.fixture
def make_at(space, connect):
    """Makes workers in the test's namespace, wherever."""

    def make_at(url: str, **options: object) -> offload.Worker:
        worker: offload.Worker = connect(url, **{"namespace": space, "grace": "1s", **options})
        return worker

    return make_at


@pytest.fixture
def make(broker, wire, make_at):
    """Makes workers at the broker. They stop before what they connect to."""

    def make(url: str = broker.url, **options: object) -> offload.Worker:
        worker: offload.Worker = make_at(url, **options)
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


# -- a cluster -------------------------------------------------------------------


class Node(OwnBroker):
    """One of a cluster's brokers, which share a cookie and a port mapper."""

    def __init__(self, folder: Path, port: int, settings: str, epmd_port: int) -> None:
        folder.mkdir()
        super().__init__(folder, settings, port)
        self._epmd_port = epmd_port
        cookie = folder / ".erlang.cookie"
        cookie.write_text("OFFLOAD")
        cookie.chmod(0o400)

    @property
    def runs(self) -> bool:
        return self._process is not None

    def has_written(self, queues: Iterable[str]) -> bool:
        """Whether it would know these quorum queues again, if it were killed now."""
        written = b"".join(each.read_bytes() for each in self._folder.rglob("names.dets"))
        return all(quote(f"/_{queue}", "").encode() in written for queue in queues)


class Cluster:
    """Three brokers as one."""

    def __init__(self, folder: Path) -> None:
        ports = [free_port() for _ in range(3)]
        settings = "cluster_formation.peer_discovery_backend = classic_config\n" + "".join(
            f"cluster_formation.classic_config.nodes.{port} = offload{port}@localhost\n"
            for port in ports
        )
        epmd_port = free_port()
        self.nodes = [Node(folder / str(port), port, settings, epmd_port) for port in ports]

    async def start(self) -> None:
        """Start whatever doesn't run."""
        await asyncio.gather(*(node.start() for node in self.nodes if not node.runs))

    def end(self) -> None:
        for node in self.nodes:
            node.strike()
        self.nodes[0].end()

    def url(self, first: Node) -> str:
        """The URL of all nodes, of which this is the first that is tried."""
        others = [node for node in self.nodes if node is not first]
        return "amqp://" + ",".join(f"127.0.0.1:{node.port}" for node in (first, *others))

    async def queues(self, space: str) -> dict[str, dict[str, Any]]:
        """The queues of a namespace: the `leader`, the `members`, and which are `online`."""
        node = next(node for node in self.nodes if node.runs)
        what = ("name", "leader", "members", "online")
        found = json.loads(await node.control("list_queues", *what, "--formatter=json"))
        return {each["name"]: each for each in found if each["name"].startswith(f"{space}.")}

    async def until_whole(self, space: str) -> dict[str, dict[str, Any]]:
        """Wait until each node has a member of each queue, and would know it again if killed.

        RabbitMQ 3.10 writes the list of them once a second.
        """
        async with asyncio.timeout(DEADLINE):
            while True:
                queues = await self.queues(space)
                online = all(len(queue["online"]) == 3 for queue in queues.values())
                if online and all(node.has_written(queues) for node in self.nodes):
                    return queues
                await asyncio.sleep(0.1)


@pytest.fixture(scope="module")
def all_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes."""
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        asyncio.run(cluster.start())
        yield cluster
    finally:
        cluster.end()


@pytest.fixture
async def cluster(all_nodes: Cluster) -> Cluster:
    """Three nodes, which all run."""
    await all_nodes.start()
    return all_nodes


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


# -- dead letters ----------------------------------------------------------------


class Undertaker:
    """Buries by the thousand, as a worker would, but without the jobs."""

    def __init__(self, url: str, space: str) -> None:
        self._url = url
        self._names = Names(space)
        self._router = Router(self._names)

    async def bury(
        self, count: int, queue: str = "default", *, first: int = 0, queue_type: str = "quorum"
    ) -> list[str]:
        """Bury that many; return their ids, which are numbers from `first` on, in their order."""
        line = Line(Broker(config_of(parse_address(self._url))), confirms=True)
        publisher = Publisher(line, Topology(self._names, queue_type))
        ids = [f"{number:032x}" for number in range(first, first + count)]
        try:
            for start in range(0, count, 500):
                part = ids[start : start + 500]
                await publisher.publish([self._letter(job_id, queue) for job_id in part])
        finally:
            await publisher.close()
        return ids

    def _letter(self, job_id: str, queue: str) -> Message:
        body = b'{"v":1,"id":"%b","handler":"note","enqueued_ms":1764020000123,"args":{}}'
        delivery = Delivery(job_id, queue, body % job_id.encode(), 4, 0, None)
        traceback = "Traceback (most recent call last):\n" + 20 * '  File "app.py", line 7, in f\n'
        return self._router.dead(delivery, Failure("ValueError: no", traceback, 4), FRAME_MAX)


@pytest.fixture
def bury(broker, space):
    """Buries letters at the broker."""
    return Undertaker(broker.url, space).bury


# -- the wire --------------------------------------------------------------------


class BrokerWire(Wire):
    """A wire to a broker, which counts the messages that it delivers."""

    def __init__(self, port: int) -> None:
        super().__init__("amqp", port)
        self.deliveries = 0

    def see_reply(self, data: bytes) -> None:
        self.deliveries += data.count(DELIVER)


@pytest.fixture
async def wire(broker) -> AsyncIterator[BrokerWire]:
    """A wire to the broker."""
    async with BrokerWire(broker.port) as wire:
        yield wire


@pytest.fixture
def string_wire(broker) -> Callable[[], BrokerWire]:
    """More wires to the broker; to be entered."""
    return lambda: BrokerWire(broker.port)
