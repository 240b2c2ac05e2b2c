"""What the author of an adapter implements for the kit, and what helps with it.

A module of pytest fixtures, published by an entry point; see docs/run-the-kit.md.
"""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Collection
from pathlib import Path
from typing import Protocol

__all__ = [
    "AddressInUseError",
    "Fresh",
    "GoldenStates",
    "Inject",
    "Server",
    "free_port",
    "require_free",
]

CONNECT_SECONDS = 1.0
PORTS = range(10_000, 32_000)
"""Where a server of a test may listen."""


class Server(Protocol):
    """The backend's server, which the kit may kill and start again: the author's own.

    It runs when a test begins, even where the test before failed while it was killed.
    """

    @property
    def address(self) -> tuple[str, int]:
        """Host and port where it listens, also after a restart."""
        ...

    async def start(self) -> None:
        """Start it, and return when it answers."""
        ...

    async def kill(self) -> None:
        """End it as kill -9 does."""
        ...


class Inject(Protocol):
    """Stores bytes as another program would, not the adapter."""

    async def __call__(self, *, namespace: str, queue: str, body: bytes) -> None:
        """Store `body` in `queue` as a job that is due.

        A worker of that namespace has connected before, so what an adapter makes when it
        connects is there.
        """
        ...


class GoldenStates(Protocol):
    """What earlier releases of the adapter have left in the backend, in files.

    `python -m offload_conformance.record URL RELEASE` makes those files, with `read`; the kit has
    them laid before, or beside, a worker of this release, which must take everything over.
    """

    @property
    def folder(self) -> Path:
        """Where the files are: a part of your distribution, or of its tests."""
        ...

    @property
    def beside(self) -> Collection[str]:
        """The releases whose processes may go on while those of this one run."""
        ...

    async def read(self, *, namespace: str) -> str:
        """All that the backend holds under a namespace, as text that people can compare.

        Give it in an order that doesn't change, and times in ms since the epoch: the kit makes
        them relative. Of a key that runs out, the time that is left is part of it.
        """
        ...

    async def lay(self, *, namespace: str, state: str) -> None:
        """Put there what such a text says.

        Where the release is one of those in `beside`, a worker may have connected before, so
        what an adapter makes when it connects is there.
        """
        ...


class Fresh(Protocol):
    """Finds places that nobody has ever used: another file, database or virtual host for each call.

    Namespaces of one place are apart, but for what a backend makes once for all of them.
    """

    def __call__(self) -> str:
        """The config string of such a place, with the scheme that is tested."""
        ...


class AddressInUseError(RuntimeError):
    """Something listens where a server of the kit's is to start."""


def free_port() -> int:
    """A port of the loopback interface on which nobody listens.

    Not one of those that the system gives to connections: while a server that was killed is down,
    another program's could take it.
    """
    for port in random.sample(PORTS, len(PORTS)):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise OSError(f"no port from {PORTS[0]} to {PORTS[-1]} is free")


def require_free(address: tuple[str, int]) -> None:
    """Check that nothing listens at an address, before a server is started there.

    What already runs there isn't the author's to kill, and would be taken for the server that
    was started.

    Raises:
        AddressInUseError: something accepts connections there.
    """
    host, port = address
    try:
        socket.create_connection(address, CONNECT_SECONDS).close()
    except OSError:
        return
    raise AddressInUseError(
        f"something already listens at {host}:{port}: end it, or test at another address"
    )
