"""An application may have its own way to make tasks."""

from __future__ import annotations

import asyncio
import contextvars
import os
import sys

import pytest

import offload
from offload import Job

DEADLINE = 20.0
JOBS = 300


def without_context(loop, coroutine):
    return asyncio.Task(coroutine, loop=loop)


def with_context(loop, coroutine, *, context=None):
    return asyncio.Task(coroutine, loop=loop, context=context)


def with_anything(loop, coroutine, **options):
    return asyncio.Task(coroutine, loop=loop, **options)


class Refusing:
    """Can't make a task now and then."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, loop, coroutine, **options):
        self.calls += 1
        if coroutine.__qualname__.startswith("Runner.") and self.calls % 3 == 0:
            raise MemoryError("no task for you")
        return asyncio.Task(coroutine, loop=loop, **options)


FACTORIES = [without_context, with_context, with_anything]
if sys.version_info >= (3, 12):
    FACTORIES.append(asyncio.eager_task_factory)

asked_for: contextvars.ContextVar[str] = contextvars.ContextVar("asked_for", default="nothing")


async def run_jobs(factory, concurrency: int, *, fails: bool = False) -> list[int]:
    """Run many jobs, half of which return without ever waiting."""
    asyncio.get_running_loop().set_task_factory(factory)
    worker = offload.connect(f"simple://?concurrency={concurrency}")
    ran: list[int] = []
    done = asyncio.Event()

    @worker.handler("job", backoff=offload.constant(0), max_attempts=50)
    async def job(args):
        if args["n"] % 2:
            await asyncio.sleep(0)
        # No job sees what another one has left.
        assert asked_for.get() == "nothing"
        asked_for.set("something")
        ran.append(args["n"])
        if len(set(ran)) == JOBS:
            done.set()

    async with worker, asyncio.timeout(DEADLINE):
        await worker.perform_many([Job("job", {"n": n}) for n in range(JOBS)])
        await done.wait()
    return ran


@pytest.mark.skipif(
    "uvloop" in os.environ.get("OFFLOAD_TEST_LOOP", ""),
    reason="asyncio.run itself can't end a loop of uvloop with such a factory",
)
@pytest.mark.parametrize("concurrency", [1, 25])
@pytest.mark.parametrize("factory", FACTORIES, ids=lambda factory: factory.__name__)
def test_jobs_run_with_every_task_factory(factory, concurrency):
    assert sorted(asyncio.run(run_jobs(factory, concurrency))) == list(range(JOBS))


def test_a_factory_that_fails_now_and_then_costs_no_job():
    assert sorted(asyncio.run(run_jobs(Refusing(), 3))) == list(range(JOBS))
