"""What goes over the wire between the drivers of base `net` and their backend."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from typing import Any, TypeAlias

import msgspec

from offload import Entry, Failure, Fetched, QueueCounts, Settlement, StoredDeadLetter

LEASE = 4.0
"""Seconds after which a job that was fetched goes back, unless its lease is extended."""
POPS = "--pops"
"""With this one, a lease never ends: only its worker can give a job back."""
FORGETS = "--forgets"
"""With this argument, the jobs of a backend go with a kill."""
LAGS = "--lags"
"""With this argument, those that it has accepted within the last `LAG` seconds go with a kill."""
LAG = 0.2

Address: TypeAlias = tuple[str, int]


class Request(msgspec.Struct):
    """Something asked of the jobs of one namespace."""

    namespace: str


class Enqueue(Request, tag=True):
    entries: Sequence[Entry]


class Fetch(Request, tag=True):
    queues: Sequence[str]
    limit: int
    worker: str = ""


class Settle(Request, tag=True):
    """Answered with the receipts that are of no lease."""

    settlements: Sequence[Settlement]


class Extend(Request, tag=True):
    """Answered with the receipts that are of no lease. All that a worker has, if it is named."""

    receipts: Sequence[int]
    worker: str = ""


class Count(Request, tag=True):
    pass


class ListDead(Request, tag=True):
    limit: int
    after: str | None


class ShowDead(Request, tag=True):
    job_id: str


class RequeueDead(Request, tag=True):
    ids: Sequence[str]


class DiscardDead(Request, tag=True):
    ids: Sequence[str]


class KeptJob(msgspec.Struct):
    """A job as it is on the disk."""

    id: str
    queue: str
    body: str
    due_ms: int
    attempt: int
    is_leased: bool = False


class KeptLetter(msgspec.Struct):
    """A dead letter as it is on the disk."""

    id: str
    queue: str
    body: str
    died_ms: int
    failure: Failure


class Content(msgspec.Struct):
    """Everything of a namespace, in order."""

    jobs: list[KeptJob]
    dead: list[KeptLetter]


class Read(Request, tag=True):
    """Not for drivers: what is on the disk."""


class Lay(Request, tag=True):
    """Not for drivers: put this on the disk, as it was there once; leases are over."""

    content: Content


AnyRequest: TypeAlias = (
    Enqueue
    | Fetch
    | Settle
    | Extend
    | Count
    | ListDead
    | ShowDead
    | RequeueDead
    | DiscardDead
    | Read
    | Lay
)

ANSWERS: dict[type[Request], Any] = {
    Enqueue: None,
    Fetch: Fetched,
    Settle: list[int],
    Extend: list[int],
    Count: dict[str, QueueCounts],
    ListDead: list[StoredDeadLetter],
    ShowDead: StoredDeadLetter | None,
    RequeueDead: list[str],
    DiscardDead: list[str],
    Read: Content,
    Lay: None,
}
"""The type of the answer to each."""


def framed(message: object) -> bytes:
    """A message as it is sent: its length in four bytes, and itself."""
    content = msgspec.msgpack.encode(message)
    return len(content).to_bytes(4) + content


async def receive(reader: asyncio.StreamReader, kind: Any) -> Any:
    """The next message, of this type."""
    size = int.from_bytes(await reader.readexactly(4))
    return msgspec.msgpack.decode(await reader.readexactly(size), type=kind)


def ask(address: Address, request: AnyRequest, timeout: float) -> Any:
    """Ask over a connection of its own, from any thread."""
    with socket.create_connection(address, timeout) as connection:
        return ask_over(connection, request)


def ask_over(connection: socket.socket, request: AnyRequest) -> Any:
    """Ask over this connection."""
    connection.sendall(framed(request))
    with connection.makefile("rb") as stream:
        content = stream.read(int.from_bytes(stream.read(4)))
    if not content:
        raise ConnectionResetError("the backend went away before it answered")
    return msgspec.msgpack.decode(content, type=ANSWERS[type(request)])
