"""What the conformance kit can't know of Redis by itself: a server to strike, and a stranger's way.

A pytest plugin, which `offload certify redis://…` loads. Nothing else imports it.

`OFFLOAD_REDIS_SERVER=redis-server offload certify redis://127.0.0.1:7001` starts that program on
the port of the URL, in a folder of its own, and kills it as the rules demand. Without the variable
the server at the URL is used as it is, and the rules that need its death stay unverified.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

from offload.config import parse_address
from offload_conformance.authors import GoldenStates, Inject, Server, require_free
from offload_redis.keys import QueueKeys, queues_key
from offload_redis.servers import DEFAULT_PORT

PROGRAM = "OFFLOAD_REDIS_SERVER"
START_SECONDS = 20.0


class PrivateServer:
    """A Redis server of our own on a loopback port, which keeps an append-only file."""

    def __init__(self, program: str, port: int, folder: Path, options: Sequence[str] = ()) -> None:
        self._command = [
            *(program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)),
            *("--appendonly", "yes", "--appendfsync", "always", "--save", "", *options),
        ]
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self._port

    async def start(self) -> None:
        require_free(self.address)
        process = self._launch()
        async with asyncio.timeout(START_SECONDS):
            while not await self._answers():
                if process.poll() is not None:
                    raise RuntimeError(f"{self._command[0]} ended: is port {self._port} in use?")
                await asyncio.sleep(0.02)

    def _launch(self) -> subprocess.Popen[bytes]:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)  # noqa: S603
        return self._process

    async def _answers(self) -> bool:
        client = redis.asyncio.Redis(host="127.0.0.1", port=self._port)
        try:
            return bool(await client.ping())
        except redis.RedisError:
            return False
        finally:
            await client.aclose()

    async def kill(self) -> None:
        self.end()

    def end(self) -> None:
        """Kill it, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def server_for(url: str, folder: Path) -> PrivateServer:
    """A private server on the port of a URL, by the program that `$OFFLOAD_REDIS_SERVER` names."""
    port = parse_address(url).port or DEFAULT_PORT
    return PrivateServer(os.environ.get(PROGRAM, "redis-server"), port, folder)


@pytest.fixture(scope="session")
def private_server(pytestconfig: pytest.Config) -> Iterator[PrivateServer | None]:
    """Such a server, running, if the variable is set."""
    if PROGRAM not in os.environ:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        server = server_for(pytestconfig.getoption("offload_url"), Path(folder))
        try:
            asyncio.run(server.start())
            yield server
        finally:
            server.end()


@pytest.fixture
def offload_server(private_server: PrivateServer | None) -> Server | None:
    """The server that may be killed."""
    return private_server


@pytest.fixture
def offload_inject(offload_url: str) -> Inject:
    """Pushes bytes into the list of what is ready, as another program could."""

    async def inject(*, namespace: str, queue: str, body: bytes) -> None:
        client = redis.asyncio.Redis.from_url(offload_url.partition("?")[0])
        async with client:
            await client.sadd(queues_key(namespace), queue)
            await client.rpush(QueueKeys(namespace, queue, "").ready, body)

    return inject


@pytest.fixture
def offload_golden_states(offload_url: str) -> GoldenStates:
    """What releases have left, as commands."""
    return RedisStates(offload_url.partition("?")[0])


class RedisStates:
    """The keys of a namespace as the commands that make them: a JSON array of each."""

    folder = Path(__file__).with_name("golden")
    beside = ("wire-1",)

    def __init__(self, url: str) -> None:
        self._url = url

    async def read(self, *, namespace: str) -> str:
        async with redis.asyncio.Redis.from_url(self._url, decode_responses=True) as client:
            keys = sorted([key async for key in client.scan_iter(f"{namespace}:*", count=1000)])
            commands = [await _command(client, key) for key in keys]
        return json.dumps(commands, ensure_ascii=False, indent=1) + "\n"

    async def lay(self, *, namespace: str, state: str) -> None:
        async with redis.asyncio.Redis.from_url(self._url) as client, client.pipeline() as pipeline:
            for command in json.loads(state):
                pipeline.execute_command(*command)
            await pipeline.execute()


async def _command(client: redis.asyncio.Redis, key: str) -> list[Any]:
    """The command that makes a key as it is."""
    match await client.type(key):
        case "string":
            return ["SET", key, await client.get(key), "PX", await client.pttl(key)]
        case "list":
            return ["RPUSH", key, *await client.lrange(key, 0, -1)]
        case "set":
            return ["SADD", key, *sorted(await client.smembers(key))]
        case "hash":
            fields = sorted((await client.hgetall(key)).items())
            return ["HSET", key, *(part for field in fields for part in field)]
        case "zset":
            # A score is a double, and all of ours are whole numbers.
            scores: Any = await client.zrange(key, 0, -1, withscores=True, score_cast_func=int)
            return ["ZADD", key, *(part for name, score in scores for part in (score, name))]
    raise ValueError(f"{key} is of a type that no release has made")
