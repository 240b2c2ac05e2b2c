"""The RabbitMQ broker that everybody has in turn."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiormq

from benchmarks.workload import free_port
from offload_amqp.conformance import DEFAULT_PROGRAM, PROGRAM, PrivateBroker


def program() -> str | None:
    """The broker's program, if there is one: `$OFFLOAD_RABBITMQ_SERVER`, or Debian's."""
    return shutil.which(os.environ.get(PROGRAM, DEFAULT_PROGRAM))


@contextmanager
def private_broker() -> Iterator[PrivateBroker]:
    """A broker of our own, on a free port, in a folder that goes with it."""
    found = program()
    if found is None:
        raise RuntimeError(f"no rabbitmq-server: install one, or name it in ${PROGRAM}")
    with tempfile.TemporaryDirectory(prefix="benchmark-", ignore_cleanup_errors=True) as folder:
        broker = PrivateBroker(found, free_port(), Path(folder))
        try:
            asyncio.run(broker.start())
            yield broker
        finally:
            broker.end()


def url_of(broker: PrivateBroker) -> str:
    """Where it is, with the account that a new broker has: any client understands it."""
    host, port = broker.address
    return f"amqp://guest:guest@{host}:{port}"


def version_of(url: str) -> str:
    """What the broker says of itself."""

    async def ask() -> str:
        async with asyncio.timeout(30):
            connection = await aiormq.connect(url)
            properties: dict[str, Any] = dict(connection.server_properties)
            await connection.close()
        return f"{properties['product']} {properties['version']} on {properties['platform']}"

    return asyncio.run(ask())
