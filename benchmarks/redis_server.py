"""The Redis server that everybody has in turn."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis

from benchmarks.workload import free_port
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
        server = PrivateServer(found, free_port(), Path(folder), SETTINGS)
        try:
            asyncio.run(server.start())
            host, port = server.address
            yield f"redis://{host}:{port}"
        finally:
            server.end()


def flush(url: str) -> None:
    """Forget what the last one left."""
    with redis.Redis.from_url(url) as client:
        client.flushall()


def info(url: str) -> dict[str, Any]:
    """What the server says of itself."""
    with redis.Redis.from_url(url) as client:
        return dict(client.info())
