"""What the tests of core share."""

from __future__ import annotations

import pytest
from watched import watched_worker

import offload


@pytest.fixture
def impatient(monkeypatch):
    """What fails is tried again soon."""
    monkeypatch.setattr("offload.engine.pause._LENGTH", offload.constant(0.002))


@pytest.fixture
async def watched():
    """A worker and the watch on its driver, with the options given; it is stopped in the end."""
    made = []

    def make(*args, **kwargs):
        made.append(watched_worker(*args, **kwargs))
        return made[-1]

    yield make
    for worker, watch in made:
        for gate in watch.gates.values():
            gate.set()
        watch.errors.clear()
        await worker.stop()
