"""What a `Worker` that is implemented whole need not write itself."""

from __future__ import annotations

from datetime import timedelta

import pytest

import offload
from offload import InvalidJobError, Job, Limits, State


class BareWorker(offload.Worker):
    """Keeps what is performed."""

    state = State.NEW
    limits = Limits(max_job_bytes=100, max_delay=timedelta(days=1), lateness=timedelta(1))

    def __init__(self):
        self.performed = []

    async def perform(self, job):
        self.performed.append(job)
        return str(len(self.performed))

    start = stop = perform_in = perform_at = register = None


async def test_perform_many_performs_one_after_the_other():
    worker = BareWorker()

    assert await worker.perform_many(Job(name) for name in "abc") == ["1", "2", "3"]
    assert worker.performed == [Job("a"), Job("b"), Job("c")]


@pytest.mark.parametrize("bad", [Job("not good"), Job("a", {"x": {1, 2}}), "a"])
async def test_perf_4_perform_many_enqueues_nothing_if_any_is_malformed(bad):
    worker = BareWorker()

    with pytest.raises(InvalidJobError):
        await worker.perform_many([Job("a"), bad, Job("b")])

    assert worker.performed == []
