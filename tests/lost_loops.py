"""A loop that is closed without a stop of its worker: what every shared backend has to do then."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable

import pytest
from support import DEADLINE

import offload
from offload import Job, State


def until(condition: Callable[[], bool]) -> None:
    """Return when `condition` holds, which other threads bring about."""
    ends = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.005)


def each_end_of_a_loop(test: Callable[..., None]) -> Callable[..., None]:
    """Run a test with `is_wound_up` true and false; of what is left open, Python may warn."""
    for mark in (
        pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
        # Were it an error, uvloop would wait for ever for what it has only warned of.
        pytest.mark.filterwarnings("ignore::ResourceWarning"),
        pytest.mark.parametrize("is_wound_up", [True, False]),
    ):
        test = mark(test)
    return test


def with_long_lease(url: str) -> str:
    """The same backend; no lease ends within a test."""
    return f"{url}{'&' if '?' in url else '?'}lease=10m"


def make_slow(url: str, name: str, begun: list[str]) -> offload.Worker:
    """A worker whose handler tells its name, and takes an hour if that is `first`."""
    worker = offload.connect(url)

    @worker.handler("slow", max_attempts=9)
    async def slow(args: offload.Args) -> None:
        begun.append(name)
        await asyncio.sleep(3600 if name == "first" else 0)

    return worker


async def begin(worker: offload.Worker, begun: list[str], jobs: int = 1) -> None:
    """Start it, and return when it runs so many jobs."""
    await worker.start()
    await worker.perform_many([Job("slow")] * jobs)
    async with asyncio.timeout(DEADLINE):
        while len(begun) < jobs:
            await asyncio.sleep(0.005)


def check_that_a_closed_loop_holds_no_job(url: str, *, is_wound_up: bool) -> None:
    """Another worker gets its jobs, long before their leases end.

    With `is_wound_up` its tasks are cancelled first, as `asyncio.run` does.
    """
    begun: list[str] = []
    first, second = make_slow(url, "first", begun), make_slow(url, "second", begun)
    if is_wound_up:
        asyncio.run(begin(first, begun, 2))
    else:
        loop = asyncio.new_event_loop()
        loop.run_until_complete(begin(first, begun, 2))
        loop.close()
    second.sync.start()
    until(lambda: begun.count("second") == 2)
    second.sync.stop()
    assert first.state is State.STOPPED
    waiting = asyncio.run(first.counts())  # it can be used again
    assert sum(queue.waiting + queue.dead for queue in waiting.values()) == 0
    first.sync.stop()
    gc.collect()
