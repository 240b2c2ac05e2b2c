"""Each call between a delivery and its verdict fails once: no slot and no other job is lost."""

from __future__ import annotations

import asyncio
import gc

import pytest

import offload
from offload import Job
from offload.engine import failures as failures_module
from offload.engine import runner as runner_module
from offload.engine import threads as threads_module

DEADLINE = 20.0
JOBS = 12


def within_worker(path):
    """Where an attribute of the running worker is, by its path from the dispatcher."""

    def find(worker):
        *owners, name = path.split(".")
        owner = worker._dispatcher
        for each in owners:
            owner = getattr(owner, each)
        return owner, name

    return find


def within_module(module, name):
    return lambda worker: (module, name)


PLACES = {
    "decode": within_module(runner_module.envelope, "decode"),
    "JobContext": within_module(runner_module, "JobContext"),
    "Run": within_module(runner_module, "Run"),
    "look-up": within_worker("_runner._registry.get"),
    "make task": within_worker("_runner._make_task"),
    "set timer": within_worker("_runner._set_timer"),
    "thread": within_worker("_runner._threads.call"),
    "tell": within_worker("_runner._observers.tell"),
    "judge": within_module(failures_module, "judge"),
    "timed out": within_module(runner_module, "timed_out"),
    "log": within_worker("_runner._failures._log"),
    "shown": within_module(failures_module, "shown"),
    "format": within_module(failures_module, "format_duration"),
    "Call": within_module(threads_module, "_Call"),
}
ERRORS = [KeyError("a bug"), MemoryError(), asyncio.CancelledError(), GeneratorExit()]


async def unfinished(worker) -> tuple[int, int, int]:
    counts = (await worker.counts()).get("default", offload.QueueCounts(0, 0, 0, 0))
    return counts.waiting, counts.scheduled, counts.running


def register(worker) -> set[int]:
    """Handlers some of which fail or take too long at first; the numbers of the jobs done."""
    done: set[int] = set()

    async def job(args):
        if args["n"] % 3 == 0 and offload.current_job().attempt == 1:
            raise ValueError("the first time")
        if args["n"] % 4 == 1 and offload.current_job().attempt == 1:
            await asyncio.sleep(60)
        done.add(args["n"])

    def plain(args):
        if args["n"] % 3 == 0 and offload.current_job().attempt == 1:
            raise ValueError("the first time")
        done.add(args["n"])

    worker.register("async", job, backoff=offload.constant(0), timeout=0.02)
    worker.register("plain", plain, backoff=offload.constant(0), timeout=30)
    return done


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("at", [0, 3])
@pytest.mark.parametrize("place", PLACES)
async def test_a_call_that_fails_costs_no_slot_and_no_other_job(place, at, error, monkeypatch):
    worker = offload.connect("simple://?concurrency=2&max_attempts=3&grace=2s")
    done = register(worker)
    stray: list[dict] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: stray.append(context))
    await worker.start()
    owner, name = PLACES[place](worker)
    original, calls = getattr(owner, name), iter(range(1_000_000))

    def fails_once(*args, **options):
        if next(calls) == at:
            raise error
        return original(*args, **options)

    monkeypatch.setattr(owner, name, fails_once)
    await worker.perform_many([Job(("async", "plain")[n % 2], {"n": n}) for n in range(JOBS)])
    runner, settler = worker._dispatcher._runner, worker._dispatcher._settler
    async with asyncio.timeout(DEADLINE):
        while worker._slots.busy or settler.unsettled or any(await unfinished(worker)):
            await asyncio.sleep(0.005)
    assert not runner.runs
    monkeypatch.undo()
    dead = len(await worker.dead_letters.list())
    assert len(done) + dead >= JOBS
    assert dead <= 1
    await worker.perform(Job("async", {"n": JOBS + 2}))
    await worker.perform(Job("plain", {"n": JOBS + 5}))
    async with asyncio.timeout(DEADLINE):
        while not {JOBS + 2, JOBS + 5} <= done:
            await asyncio.sleep(0.005)
    await worker.stop()
    gc.collect()
    assert stray == []
