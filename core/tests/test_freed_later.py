"""Handlers that end after their verdict, or are cut short: their frames are freed, too."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import weakref

import pytest

import offload
from offload import Job
from offload.engine.run import Interruption

DEADLINE = 20.0


class Big:
    """Stands for twenty megabytes."""


def keeps_its_error(held: Big) -> None:
    """Raises an error that its own frame holds on to: a cycle."""
    last = None
    try:
        int("kept")
    except ValueError as error:
        last = error
    assert held
    raise last


@contextlib.contextmanager
def without_collector():
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def until(condition) -> None:
    async with asyncio.timeout(DEADLINE):
        while not condition():
            await asyncio.sleep(0.002)


async def test_a_def_handler_that_fails_after_its_timeout_keeps_nothing():
    worker = offload.connect("simple://?max_attempts=1&concurrency=2")
    refs: list[weakref.ref[Big]] = []
    let_go = threading.Event()

    def slow(args):
        held = Big()
        refs.append(weakref.ref(held))
        let_go.wait(DEADLINE)
        keeps_its_error(held)

    worker.register("slow", slow, timeout=0.02)
    await worker.start()
    runner = worker._dispatcher._runner
    with without_collector():
        await worker.perform(Job("slow"))
        await until(lambda: runner.finished_jobs == 1)
        let_go.set()
        await until(lambda: not worker._slots.busy)
        await asyncio.sleep(0)
        await until(lambda: refs[0]() is None)
    await worker.stop()


@pytest.mark.parametrize("why", list(Interruption), ids=lambda why: why.name)
async def test_a_run_that_is_cut_short_keeps_nothing(why):
    worker = offload.connect("simple://?max_attempts=1&concurrency=2&grace=0s")
    refs: list[weakref.ref[Big]] = []

    async def waits(args):
        held = Big()
        refs.append(weakref.ref(held))
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if len(refs) == 1:
                keeps_its_error(held)

    worker.register("waits", waits, timeout=60)
    await worker.start()
    runner = worker._dispatcher._runner
    with without_collector():
        await worker.perform(Job("waits"))
        await until(lambda: refs)
        for run in list(runner.runs):
            runner.interrupt(run, why)
        del run
        await until(lambda: refs[0]() is None)
    await worker.stop()


async def test_a_worker_that_nobody_has_and_that_only_performed_is_freed_at_once():
    gc.collect()
    gc.disable()
    try:
        worker = offload.connect("simple://")
        worker.register("job", print)
        await worker.perform(Job("job"))
        await worker.counts()
        freed = weakref.ref(worker)
        del worker
        assert freed() is None
    finally:
        gc.enable()
