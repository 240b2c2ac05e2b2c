"""Fixtures for all tests of the workspace, and the snippets of the docs as tests."""

from __future__ import annotations

import gc
import os
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
from loops import use_test_loop
from support import Recorder
from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser

import offload
from offload.engine.processes import vigil

use_test_loop()

# A bound on the time of each example would fail on a busy machine, and prove nothing.
hypothesis.settings.register_profile("unhurried", hypothesis.settings(), deadline=None)
hypothesis.settings.load_profile("unhurried")


@pytest.fixture(autouse=True)
def left_workers_are_stopped() -> Iterator[None]:
    """What a test has left on its loop is let go of now: else a later test would hear of it."""
    yield
    if left := list(vigil._workers):  # noqa: SLF001
        for worker in left:
            worker.leave_closed_loop()
        del left, worker
        gc.collect()


@pytest.fixture(params=["simple", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh backend."""
    return "simple://" if request.param == "simple" else f"sqlite:///{tmp_path}/jobs.db"


@pytest.fixture
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh backend of the kind that a test asks for, as in `indirect=True`."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/jobs.db"
    own = secrets.token_hex(8)
    # Of the fake one a server of its own: what a test leaves blocked there fails others.
    return f"{request.param}://{own if request.param == 'redis+fake' else ''}?namespace=ns-{own}"


@pytest.fixture
def no_adapters(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No adapter is installed."""
    monkeypatch.setattr(offload.adapters, "_entry_points", list)
    monkeypatch.syspath_prepend(tmp_path)  # what was found on the path before is remembered


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """A fresh durable backend."""
    return f"sqlite:///{tmp_path}/jobs.db"


@pytest.fixture
async def connect() -> AsyncIterator[Callable[..., offload.Worker]]:
    """`offload.connect` with options as keywords; what it made is stopped at the end."""
    workers: list[offload.Worker] = []

    def connect(url: str, **options: object) -> offload.Worker:
        query = "&".join(f"{name}={value}" for name, value in options.items())
        worker = offload.connect(f"{url}?{query}" if query else url)
        workers.append(worker)
        return worker

    yield connect
    for worker in workers:
        await worker.stop()


@pytest.fixture
def recorder() -> Recorder:
    """Handlers that tell the test what they do."""
    return Recorder()


def run_shell(example: Example) -> None:
    """Run a shell snippet as a reader would: in a folder of its own, `offload` on the path."""
    scripts = Path(sys.executable).parent
    subprocess.run(
        ["sh", "-euc", example.parsed],
        cwd=example.namespace["folder"],
        env={**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"},
        check=True,
        timeout=60,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the shell snippets of a page run."""
    return tmp_path


@pytest.hookimpl(tryfirst=True)  # before the groups are read
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A page's snippets build on each other, so one process runs them all.

    Groups begin: each is run by one process, and most of them start a server.
    """
    for item in items:
        if item.path.suffix == ".md":
            item.add_marker(pytest.mark.xdist_group(str(item.path)))
    items.sort(key=lambda item: item.get_closest_marker("xdist_group") is None)


pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser(), CodeBlockParser("sh", run_shell)],
    patterns=["*.md"],
    fixtures=["folder"],
).pytest()
