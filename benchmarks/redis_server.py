"""The Redis server that everybody has in turn, and the clock that every drain is read from."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis

from offload_redis.conformance import PROGRAM, PrivateServer

SETTINGS = ("--appendfsync", "everysec", "--auto-aof-rewrite-percentage", "0")
"""Accepted jobs survive its death, those of the last second don't survive the machine's. The file
is never rewritten: when that happens is nobody's merit, and takes one of few cores."""


def program() -> str | None:
    """The server's program, if there is one: `$OFFLOAD_REDIS_SERVER`, or the one on the PATH."""
    return shutil.which(os.environ.get(PROGRAM, "redis-server"))


@contextmanager
def private_server() -> Iterator[str]:
    """The URL of a server of our own, on a free port, in a folder that goes with it."""
    found = program()
    if found is None:
        raise RuntimeError(f"no redis-server: install one, or name it in ${PROGRAM}")
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        server = PrivateServer(found, _free_port(), Path(folder), SETTINGS)
        try:
            asyncio.run(server.start())
            host, port = server.address
            yield f"redis://{host}:{port}"
        finally:
            server.end()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def flush(url: str) -> None:
    """Forget what the last one left."""
    with redis.Redis.from_url(url) as client:
        client.flushall()


def info(url: str) -> dict[str, Any]:
    """What the server says of itself."""
    with redis.Redis.from_url(url) as client:
        return dict(client.info())


class DrainClock:
    """Read in the handlers, whoever calls them: jobs a second, once a tenth of them has run."""

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs + max(jobs // 10, 100)
        """How many must be enqueued."""
        self.done = asyncio.Event()
        self._counted = jobs
        self._left = self.jobs
        self._began = self._ended = 0.0

    def tick(self) -> None:
        """A handler runs."""
        self._left -= 1
        if self._left == self._counted:
            self._began = time.perf_counter()
        elif not self._left:
            self._ended = time.perf_counter()
            self.done.set()

    @property
    def jobs_per_second(self) -> float:
        """Behind `done`."""
        return self._counted / (self._ended - self._began)
