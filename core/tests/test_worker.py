"""What a `Worker` that is implemented whole need not write itself."""

from __future__ import annotations

from datetime import timedelta

import pytest

import offload
from offload import (
    BackendUnavailableError,
    InvalidJobError,
    Job,
    Limits,
    State,
    UnsupportedError,
)


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


async def test_perform_many_says_when_some_are_stored():
    worker = BareWorker()
    perform = worker.perform

    async def fail_at(job):
        if len(worker.performed) == stored:
            raise BackendUnavailableError("away")
        return await perform(job)

    worker.perform = fail_at
    for stored, maybe_stored in ((0, False), (1, True), (2, True)):
        worker.performed.clear()
        with pytest.raises(BackendUnavailableError) as caught:
            await worker.perform_many([Job("a")] * 3)
        assert caught.value.maybe_stored is maybe_stored
        assert len(worker.performed) == stored


async def test_what_an_adapter_does_not_offer_is_unsupported():
    worker = BareWorker()

    with pytest.raises(UnsupportedError):
        await worker.counts()
    with pytest.raises(UnsupportedError):
        _ = worker.dead_letters
    with pytest.raises(UnsupportedError):
        worker.observe(object())
