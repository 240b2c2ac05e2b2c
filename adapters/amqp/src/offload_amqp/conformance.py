"""What the conformance kit can't know of RabbitMQ by itself: a broker to strike, a stranger's way.

A pytest plugin, which `offload certify amqp://…` loads. Nothing else imports it.

`OFFLOAD_RABBITMQ_SERVER=/usr/lib/rabbitmq/bin/rabbitmq-server offload certify amqp://127.0.0.1:7002`
starts that program on the port of the URL, with folders and a name of its own, and kills it as the
rules demand. Without the variable the broker at the URL is used as it is, and the rules that need
its death stay unverified.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from offload import BackendError
from offload.config import parse_address
from offload_amqp.connection import Broker, Line
from offload_amqp.golden_states import AmqpStates
from offload_amqp.messages import Message
from offload_amqp.names import Names
from offload_amqp.options import config_of
from offload_amqp.publisher import Publisher
from offload_amqp.topology import Topology
from offload_conformance.authors import (
    GoldenStates,
    Inject,
    Server,
    free_port,
    require_free,
)

PROGRAM = "OFFLOAD_RABBITMQ_SERVER"
DEFAULT_PROGRAM = "/usr/lib/rabbitmq/bin/rabbitmq-server"
START_SECONDS = 60.0

# Without it, what was on its way down the ladder when the broker died comes three minutes late.
ADVANCED = "[{rabbit, [{dead_letter_worker_publisher_confirm_timeout, 1000}]}]."


class PrivateBroker:
    """A RabbitMQ broker of our own on a loopback port."""

    def __init__(self, program: str, port: int, folder: Path, settings: str = "") -> None:
        """`settings` are more lines of its `rabbitmq.conf`."""
        self._program = program
        self._port = port
        self._folder = folder
        self._epmd_port = free_port()
        self._dist_port = free_port()
        (folder / "advanced.config").write_text(ADVANCED)
        self._api_port = free_port()
        (folder / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{port}\n"
            f"management.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {self._api_port}\n"
            "management_agent.disable_metrics_collector = true\n"
            f"{settings}"
        )
        # For `ask` alone: nothing else can tell which queues there are.
        (folder / "enabled_plugins").write_text("[rabbitmq_management].")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self._port

    def _environment(self) -> dict[str, str]:
        folder = str(self._folder)
        return {
            **os.environ,
            "HOME": folder,
            "RABBITMQ_NODENAME": f"offload{self._port}@localhost",
            "RABBITMQ_CONFIG_FILE": f"{folder}/rabbitmq.conf",
            "RABBITMQ_ADVANCED_CONFIG_FILE": f"{folder}/advanced.config",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{folder}/enabled_plugins",
            "RABBITMQ_MNESIA_BASE": f"{folder}/data",
            "RABBITMQ_LOG_BASE": f"{folder}/log",
            "RABBITMQ_CONF_ENV_FILE": f"{folder}/none",
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
        }

    async def start(self) -> None:
        require_free(self.address)
        process = self._launch()
        async with asyncio.timeout(START_SECONDS):
            while not await self._answers():
                if process.poll() is not None:
                    raise RuntimeError(f"{self._program} ended: see {self._folder}/log")
                await asyncio.sleep(0.1)

    def _launch(self) -> subprocess.Popen[bytes]:
        output = (self._folder / "output").open("ab")
        self._process = subprocess.Popen(  # noqa: S603
            [self._program],
            cwd=self._folder,  # where Erlang leaves a dump when it crashes
            env=self._environment(),
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        output.close()
        return self._process

    async def _answers(self) -> bool:
        try:
            async with asyncio.timeout(5):
                address = parse_address(f"amqp://127.0.0.1:{self._port}")
                connection = await Broker(config_of(address)).connect()
                await connection.close(1)
        except BackendError:
            return False
        return True

    async def kill(self) -> None:
        # A quorum queue that was declared just now is lost for good: RabbitMQ 3.10 writes the list
        # of them every half second. See the README; it is no fault of the adapter's.
        await asyncio.sleep(1)
        self.end()

    def strike(self) -> None:
        """Kill it at once, if it runs."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):  # it has ended by itself
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def clear(self, start: str) -> None:
        """Delete the queues whose names begin like this, in any case: many make a restart slow."""
        for queue in self.ask("GET", "queues?disable_stats=true"):
            if queue["name"].lower().startswith(start):
                self.ask("DELETE", f"queues/%2F/{quote(queue['name'], safe='')}")

    def ask(self, method: str, path: str, content: Any = None) -> Any:
        """Ask the management plugin, which knows of everything that there is."""
        token = base64.b64encode(b"guest:guest").decode()
        headers = {"Authorization": f"Basic {token}", "Content-Type": "application/json"}
        api = http.client.HTTPConnection("127.0.0.1", self._api_port, timeout=30)
        with contextlib.closing(api):
            body = None if content is None else json.dumps(content)
            api.request(method, f"/api/{path}", body, headers)
            response = api.getresponse()
            text = response.read()
        if response.status == http.HTTPStatus.NOT_FOUND and method == "DELETE":
            return None  # somebody was faster
        if response.status >= http.HTTPStatus.BAD_REQUEST:
            raise RuntimeError(f"{method} {path}: {response.status} {text.decode()}")
        return json.loads(text) if text else None

    def end(self) -> None:
        """Kill it, and the port mapper that it has started, which has left its process group."""
        self.strike()
        command = ["epmd", "-kill"]
        for _ in range(100):
            # It refuses as long as it believes that a node lives.
            done = subprocess.run(  # noqa: S603
                command, env=self._environment(), capture_output=True, check=False
            )
            if done.returncode == 0 or b"annot connect" in done.stdout + done.stderr:
                return
            time.sleep(0.02)


def server_for(url: str, folder: Path) -> PrivateBroker:
    """A private broker on the port of a URL, by the program in `$OFFLOAD_RABBITMQ_SERVER`."""
    port = parse_address(url).port or 5672
    return PrivateBroker(os.environ.get(PROGRAM, DEFAULT_PROGRAM), port, folder)


@pytest.fixture(scope="session")
def private_broker(pytestconfig: pytest.Config) -> Iterator[PrivateBroker | None]:
    """Such a broker, running, if the variable is set."""
    if PROGRAM not in os.environ:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        broker = server_for(pytestconfig.getoption("offload_url"), Path(folder))
        try:
            asyncio.run(broker.start())
            yield broker
        finally:
            broker.end()


@pytest.fixture
def offload_server(private_broker: PrivateBroker | None) -> Iterator[Server | None]:
    """The broker that may be killed. It forgets the kit's queues after each test."""
    yield private_broker
    if private_broker is not None:
        private_broker.clear("kit-")


@pytest.fixture
def offload_inject(offload_url: str) -> Inject:
    """Publishes bytes without id and headers, as another program could."""
    config = config_of(parse_address(offload_url))

    async def inject(*, namespace: str, queue: str, body: bytes) -> None:
        names = Names(namespace)
        publisher = Publisher(Line(Broker(config), confirms=True), Topology(names, "quorum"))
        await publisher.publish([Message("", names.work(queue), "", {}, body, queue)])
        await publisher.close()

    return inject


@pytest.fixture
def offload_golden_states(private_broker: PrivateBroker | None) -> GoldenStates | None:
    """What releases have left; only a broker of our own tells what it has."""
    return None if private_broker is None else AmqpStates(private_broker.ask)
