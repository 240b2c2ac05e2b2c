"""What a failed handler held is freed when the job has its verdict, not when the collector runs."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

import offload
from offload import Job, Retry

DEADLINE = 20.0


class Big:
    """Stands for twenty megabytes."""


refs: list[weakref.ref[Big]] = []


def big() -> Big:
    made = Big()
    refs.append(weakref.ref(made))
    return made


async def raises(args):
    held = big()
    raise ValueError(f"held {held is not None}")


def raises_in_a_thread(args):
    held = big()
    raise ValueError(f"held {held is not None}")


async def raises_deep(args):
    held = big()
    await raises(args)
    del held


async def raises_from_another(args):
    held = big()
    try:
        await raises(args)
    except ValueError as error:
        raise KeyError(str(held)) from error


async def raises_a_group(args):
    held = big()
    async with asyncio.TaskGroup() as group:
        group.create_task(raises(args))
        group.create_task(asyncio.sleep(60))
    del held


async def retries(args):
    held = big()
    raise Retry(after=3600, reason=str(held))


async def takes_too_long(args):
    held = big()
    await asyncio.sleep(60)
    del held


def returns_what_raises(args):
    return raises(args)


async def raises_with_itself_inside(args):
    held = big()
    error = ValueError(str(held))
    raise error


def keeps_the_last_error(args):
    held, last = big(), None
    try:
        int("no number")
    except ValueError as error:
        last = error
    assert held
    raise last


async def raises_a_group_of_groups(args):
    held = big()
    errors = []
    for _ in range(3):
        try:
            await raises_with_itself_inside(args)
        except ValueError as error:
            errors.append(ExceptionGroup("inner", [error]))
    raise ExceptionGroup(str(held), errors)


HANDLERS = [
    raises,
    raises_in_a_thread,
    raises_deep,
    raises_from_another,
    raises_a_group,
    retries,
    takes_too_long,
    returns_what_raises,
    raises_with_itself_inside,
    keeps_the_last_error,
    raises_a_group_of_groups,
]


class Watcher:
    """An observer that looks at the error, and keeps nothing of it."""

    def __init__(self) -> None:
        self.settled = asyncio.Event()

    @offload.hookimpl
    def job_failed(self, job, error):
        str(error)

    @offload.hookimpl
    def job_dead(self):
        self.settled.set()

    job_retried = job_dead


@pytest.mark.parametrize("max_attempts", [1, 2], ids=["dead", "retried"])
@pytest.mark.parametrize("handler", HANDLERS, ids=lambda handler: handler.__name__)
async def test_the_frames_of_a_failed_handler_are_freed_at_once(handler, max_attempts):
    worker = offload.connect(f"simple://?max_attempts={max_attempts}")
    watcher = Watcher()
    worker.observe(watcher)
    backoff = offload.constant(3600)
    worker.register("fail", handler, backoff=backoff, timeout=0.02 if "long" in str(handler) else 9)
    await worker.start()
    refs.clear()
    gc.collect()
    gc.disable()
    try:
        await worker.perform(Job("fail"))
        async with asyncio.timeout(DEADLINE):
            await watcher.settled.wait()
        for _ in range(5):  # the task's own end, and the turn of a thread
            await asyncio.sleep(0.001)
        assert refs
        assert [ref() for ref in refs] == [None] * len(refs)
    finally:
        gc.enable()
        await worker.stop()
