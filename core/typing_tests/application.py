"""A program as users write it, checked and never run: the public API under strict types."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import assert_type

import offload
from offload import Args, Job, JobContext, QueueCounts, StopReport, Worker

worker = offload.connect("simple://")
assert_type(worker, Worker)


@worker.handler("decorated", max_attempts=3, backoff=offload.constant(timedelta(seconds=1)))
async def decorated(args: Args) -> None:
    assert_type(offload.current_job(), JobContext)
    raise offload.Retry(after=timedelta(seconds=5))


@worker.handler("blocking", timeout=5)
def blocking(args: Args) -> None:
    assert_type(worker.sync.perform(Job("decorated")), str)
    raise offload.Reject("never")


worker.register("plain", blocking, timeout=timedelta(seconds=5))
worker.register("wrong", 5)  # type: ignore[arg-type]


class Metrics:
    @offload.hookimpl
    def job_succeeded(self, job: JobContext) -> None:
        assert_type(job.attempt, int)


async def main() -> None:
    worker.observe(Metrics())
    async with worker as running:
        assert_type(running, Worker)
        assert_type(await worker.perform(Job("decorated", {"a": [1, None]})), str)
        await worker.perform_in(Job("decorated", queue="slow"), 1.5)
        await worker.perform_at(Job("decorated"), datetime.now(UTC))
        assert_type(await worker.perform_many([Job("decorated")]), list[str])
        counts = (await worker.counts())["default"]
        assert_type(counts, QueueCounts)
        assert_type(counts.waiting + counts.dead, int)
        assert_type(counts.scheduled, int | None)
        counts.scheduled + 1  # type: ignore[operator]
        assert_type(counts.running, int | None)
        for letter in await worker.dead_letters.list(limit=5):
            await worker.dead_letters.requeue([letter.id])
    assert_type(await worker.stop(), StopReport)
    await worker.perform("decorated")  # type: ignore[arg-type]


report: StopReport = offload.run(worker, main, worker_off=True)
