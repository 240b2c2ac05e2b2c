"""Behaviour through the public API, on every embedded adapter."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

import offload
from support import Recorder


@pytest.fixture(params=["simple", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh backend."""
    return "simple://" if request.param == "simple" else f"sqlite:///{tmp_path}/jobs.db"


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
