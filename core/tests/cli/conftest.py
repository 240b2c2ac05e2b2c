"""The command line, used as a person uses it: in this process, or as one of its own."""

from __future__ import annotations

import logging
import os
import queue
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import offload
from offload.cli import main

DEADLINE = 30.0
"""Seconds after which something that had to happen has not."""


class Program:
    """A running `offload …`, whose lines are read as they come."""

    def __init__(self, arguments: tuple[str, ...], cwd: Path, env: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "offload", *arguments],
            cwd=cwd,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._out: list[str] = []
        self._err: list[str] = []
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._threads = [
            threading.Thread(target=self._read, args=(self._process.stdout, self._out)),
            threading.Thread(target=self._read, args=(self._process.stderr, self._err)),
        ]
        for thread in self._threads:
            thread.start()

    @property
    def out(self) -> str:
        return "".join(self._out)

    @property
    def err(self) -> str:
        return "".join(self._err)

    def until_line(self, text: str) -> None:
        """Wait for a line, on either stream, that holds `text`."""
        deadline = time.monotonic() + DEADLINE
        while True:
            line = self._lines.get(timeout=deadline - time.monotonic())
            assert line is not None, f"it ended without {text!r}:\n{self.out}\n{self.err}"
            if text in line:
                return

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def ended(self, timeout: float) -> bool:
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        return True

    def result(self) -> int:
        """The exit code, when all that it wrote has been read."""
        try:
            code = self._process.wait(DEADLINE)
        finally:
            self.kill()
        return code

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        for thread in self._threads:
            thread.join()
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None
            stream.close()

    def _read(self, stream: Any, lines: list[str]) -> None:
        for line in stream:
            lines.append(line)
            self._lines.put(line)
        self._lines.put(None)


@pytest.fixture(autouse=True)
def _own_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing of the person who runs the tests: no variables, no temporary files, no logging."""
    for name in ("OFFLOAD_URL", "NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    logger, job_logger = logging.getLogger("offload"), logging.getLogger("offload.job")
    before = logger.handlers, logger.propagate, logger.level
    yield
    logger.handlers, logger.propagate = before[:2]
    logger.setLevel(before[2])
    job_logger.setLevel(logging.NOTSET)


@pytest.fixture
def run() -> Callable[..., Result]:
    """Run a command in this process."""

    def run(*arguments: str, **options: Any) -> Result:
        return CliRunner().invoke(main, arguments, **options)

    return run


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    """Start a command as a process of its own."""
    programs: list[Program] = []

    def start(*arguments: str, **env: str) -> Program:
        programs.append(Program(arguments, tmp_path, {**os.environ, **env}))
        return programs[-1]

    yield start
    for program in programs:
        program.kill()


ADAPTER_OF_DRIVER = """

import datetime

@offload.hookimpl
def offload_adapter(scheme):
    return offload.Adapter(
        claims=offload.Claims(fifo=True, durable=True, distributed=True, dead_letters=False),
        limits=offload.Limits(
            max_job_bytes=1000,
            max_delay=datetime.timedelta(days=1),
            lateness=datetime.timedelta(1),
        ),
        options=OPTIONS,
        make=Driver,
    )
"""


@pytest.fixture
def driver(distribution: Callable[..., None]) -> Callable[[str, str], None]:
    """Install an adapter for a scheme, whose code has a `Driver` and its `OPTIONS`."""

    def install(scheme: str, code: str) -> None:
        distribution(scheme, scheme, textwrap.dedent(code) + ADAPTER_OF_DRIVER)

    return install


@pytest.fixture
def distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Install a distribution that offers an adapter, or what else has entry points.

    In this process, and in those that it starts.
    """
    site = tmp_path / "site"

    def install(
        name: str, scheme: str, code: str, group: str = "offload.adapters", suffix: str = ""
    ) -> None:
        info = site / f"{name}-1.2.3.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2.3\n")
        (info / "entry_points.txt").write_text(f"[{group}]\n{scheme} = {name}_adapter{suffix}\n")
        (site / f"{name}_adapter.py").write_text(textwrap.dedent(code))
        monkeypatch.syspath_prepend(site)
        monkeypatch.setenv("PYTHONPATH", str(site), prepend=os.pathsep)

    return install


@pytest.fixture
def empty(sqlite_url: str) -> str:
    """The URL of a database without a job in it."""
    worker = offload.connect(sqlite_url).sync
    worker.counts()
    worker.stop()
    return sqlite_url


@pytest.fixture
def doomed(sqlite_url: str) -> Callable[..., list[str]]:
    """Make jobs that end as dead letters; returns their ids, the oldest first."""

    def make(count: int, reason: str = "no way") -> list[str]:
        worker = offload.connect(f"{sqlite_url}?concurrency=1")

        @worker.handler("doomed")
        async def doomed(args: offload.Args) -> None:
            raise offload.Reject(reason)

        jobs = [offload.Job("doomed", {"number": number}) for number in range(count)]
        with worker.sync as running:
            ids = running.perform_many(jobs)
            dead = threading.Event()
            while not dead.wait(0.01):
                counts = running.counts()["default"]
                if counts.dead == count:
                    dead.set()
        return ids

    return make


@pytest.fixture
def counts(sqlite_url: str) -> Callable[[], dict[str, dict[str, int]]]:
    """How many jobs the database holds, by queue and state; states without any are left out."""

    def look() -> dict[str, dict[str, int]]:
        worker = offload.connect(sqlite_url).sync
        try:
            found = worker.counts()
        finally:
            worker.stop()
        states = ("waiting", "scheduled", "running", "dead")
        return {
            name: {state: n for state in states if (n := getattr(number, state))}
            for name, number in found.items()
        }

    return look
