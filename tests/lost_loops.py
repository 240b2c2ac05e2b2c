"""A loop that is closed without a stop of its worker: what every shared backend has to do then."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable

from support import DEADLINE

import offload
from offload import Job, State


def until(condition: Callable[[], bool]) -> None:
    """Return when `condition` holds, which other threads bring about."""
    ends = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.005)


def check_that_a_closed_loop_holds_no_job(url: str, *, is_wound_up: bool) -> None:
    """Another worker gets its jobs, long before their leases end.

    With `is_wound_up` its tasks are cancelled first, as `asyncio.run` does.
    """
    begun: list[str] = []

    def make(name: str) -> offload.Worker:
        worker = offload.connect(url)

        @worker.handler("slow", max_attempts=9)
        async def slow(args: offload.Args) -> None:
            begun.append(name)
            await asyncio.sleep(3600 if name == "first" else 0)

        return worker

    async def start(worker: offload.Worker) -> None:
        await worker.start()
        await worker.perform_many([Job("slow")] * 2)
        async with asyncio.timeout(DEADLINE):
            while len(begun) < 2:
                await asyncio.sleep(0.005)

    first = make("first")
    if is_wound_up:
        asyncio.run(start(first))
    else:
        loop = asyncio.new_event_loop()
        loop.run_until_complete(start(first))
        loop.close()
    second = make("second")
    second.sync.start()
    until(lambda: begun.count("second") == 2)
    second.sync.stop()
    assert first.state is State.STOPPED
    waiting = asyncio.run(first.counts())  # it can be used again
    assert sum(queue.waiting + queue.dead for queue in waiting.values()) == 0
    first.sync.stop()
    gc.collect()
