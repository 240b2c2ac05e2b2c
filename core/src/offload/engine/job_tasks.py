"""How the task of a run is made."""

from __future__ import annotations

import asyncio
import contextvars
import functools
from collections.abc import Callable, Coroutine
from typing import Any

MakeTask = Callable[[Coroutine[Any, Any, None]], "asyncio.Future[None]"]


def task_maker(loop: asyncio.AbstractEventLoop) -> MakeTask:
    """How to make the task of a run, with a context of its own.

    Each job starts from the context of start(), not from that of the job before it.
    """
    context = contextvars.copy_context()
    if loop.get_task_factory() is None:
        # loop.create_task does no more than this, but costs half as much again.
        make_task = functools.partial(asyncio.Task, loop=loop, name="offload-job")
        return lambda work: make_task(work, context=context.copy())
    # Not every factory takes a context; but each takes over the one in which it is called.
    return lambda work: context.copy().run(_make_by_factory, loop, work)


def _make_by_factory(
    loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, None]
) -> asyncio.Future[None]:
    try:
        return loop.create_task(work)
    except TypeError:  # the factory doesn't take what this kind of loop hands to it
        return asyncio.Task(work, loop=loop)
