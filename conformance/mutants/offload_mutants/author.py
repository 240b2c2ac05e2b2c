"""What the author of an adapter adds for the kit, here for all variants: fixtures of pytest.

Found by the kit as that of any adapter is, by the entry point `mutant`.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from offload import Entry
from offload.config import Address, parse_address
from offload_conformance.authors import Fresh, GoldenStates, Inject, Server
from offload_mutants import net_wire, sql_driver
from offload_mutants.left_states import NetStates, SqlStates
from offload_mutants.registry import VARIANTS
from offload_sqlite.conformance import SqliteStates, fresh_files, inject_into
from offload_sqlite.options import database_path


class BackendProcess:
    """The backend of the variants of base `net`, in a process of its own."""

    def __init__(self, port: int, flags: tuple[str, ...]) -> None:
        self.address = ("127.0.0.1", port)
        command = (sys.executable, "-m", "offload_mutants.net_backend", str(port), *flags)
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    async def start(self) -> None:
        self.tell("start")

    async def kill(self) -> None:
        self.tell("kill")

    def tell(self, word: str) -> None:
        """Tell it what to do, and return when that is done."""
        if self._process.stdin is None or self._process.stdout is None:
            raise AssertionError("it has pipes")
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()
        if self._process.stdout.readline() != "done\n":
            raise RuntimeError(f"the backend couldn't {word}")

    def end(self) -> None:
        """End the process."""
        self._process.communicate()


@pytest.fixture(scope="session")
def offload_backend(pytestconfig: pytest.Config) -> Iterator[BackendProcess | None]:
    """The backend of the variant under test, if it has one."""
    variant = VARIANTS[os.environ["OFFLOAD_MUTANT"]]
    if variant.base != "net":
        yield None
        return
    port = parse_address(pytestconfig.getoption("offload_url")).port
    if port is None:
        raise AssertionError("the matrix gives it a port")
    backend = BackendProcess(port, variant.backend)
    yield backend
    backend.end()


@pytest.fixture
def offload_server(offload_backend: BackendProcess | None) -> Server | None:
    """The backend, which runs when a test begins, whatever the one before has left."""
    if offload_backend is not None:
        offload_backend.tell("start")
    return offload_backend


@pytest.fixture
def offload_inject(offload_url: str, offload_server: Server | None) -> Inject | None:
    """Stores bytes as another program could: in the file, or over the network."""
    address = parse_address(offload_url)
    if offload_server is not None:
        return inject_over(offload_server.address)
    if VARIANTS[os.environ["OFFLOAD_MUTANT"]].base == "sql":
        return inject_with_sql(address)
    return inject_into(database_path(address)) if address.path else None


@pytest.fixture
def offload_golden_states(offload_url: str, offload_server: Server | None) -> GoldenStates | None:
    """What an earlier release of what is varied has left."""
    address = parse_address(offload_url)
    if offload_server is not None:
        return NetStates(offload_server.address)
    if VARIANTS[os.environ["OFFLOAD_MUTANT"]].base == "sql":
        return SqlStates(sql_driver.path_of(address))
    return SqliteStates(database_path(address)) if address.path else None


@pytest.fixture
def offload_fresh(offload_url: str, tmp_path: Path) -> Fresh | None:
    """Files that nobody has opened, for what is kept in a file."""
    return fresh_files(offload_url, tmp_path) if parse_address(offload_url).path else None


def inject_with_sql(address: Address) -> Inject:
    """Inject bytes into the tables of the file at this address."""

    async def inject(namespace: str, queue: str, body: bytes) -> None:
        with contextlib.closing(sqlite3.connect(sql_driver.path_of(address))) as db, db:
            db.execute(
                "INSERT INTO jobs (namespace, queue, id, body, due_ms) VALUES (?, ?, ?, ?, 0)",
                (namespace, queue, secrets.token_hex(8), body),
            )

    return inject


def inject_over(address: net_wire.Address) -> Inject:
    """Inject bytes into the backend at this address."""

    async def inject(*, namespace: str, queue: str, body: bytes) -> None:
        entry = Entry(secrets.token_hex(8), queue, body)
        net_wire.ask(address, net_wire.Enqueue(namespace, [entry]), 5)

    return inject
