"""What is performed, and what a handler learns of it."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import msgspec

from offload.errors import UsageError

Args: TypeAlias = dict[str, Any]
"""A JSON object: str keys; values of str, int, float, bool, None, list and dict."""

Handler: TypeAlias = Callable[[Args], Awaitable[None] | None]
"""`def` or `async def`, with one argument: the args of the job."""

NAME_PATTERN = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
"""What a handler may be called."""
NAME_RULE = "1 to 128 of A-Z a-z 0-9 _ . : -"
"""The same in words, for whoever chose another."""

QUEUE_PATTERN = re.compile(r"[A-Za-z0-9_-]{1,120}")
"""What a queue or a namespace may be called: every backend can carry this as it is."""
QUEUE_RULE = "1 to 120 of A-Z a-z 0-9 _ -"
"""The same in words."""


# Structs of msgspec where most would be dataclasses: one is made for each job at each step,
# and a frozen dataclass costs several times as much to make. Those that can't be part of a
# cycle are spared the garbage collector's rounds (gc=False).
class Job(msgspec.Struct, frozen=True):
    """A piece of work.

    Attributes:
        handler: the name of its handler.
        args: what the handler is called with.
        queue: where it waits for a worker.
    """

    handler: str
    args: Args = msgspec.field(default_factory=dict)
    queue: str = "default"


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def instant_of(milliseconds: int) -> datetime:
    """An instant in milliseconds since the epoch; the calendar's end for one beyond it.

    A backend may hold what a stranger has written.
    """
    try:
        return _EPOCH + timedelta(milliseconds=milliseconds)
    except OverflowError:
        end = datetime.max if milliseconds > 0 else datetime.min  # noqa: DTZ901 - a zone follows
        return end.replace(tzinfo=UTC)


class JobContext(msgspec.Struct, frozen=True, gc=False):
    """One run of a job, as its handler and the observers see it.

    Attributes:
        id: what `perform` returned.
        queue: where it waited.
        handler: the name of its handler.
        attempt: 1 for the first run; 0 before it.
        enqueued_ms: when it was performed, by the performer's clock: milliseconds since the epoch.
        due_ms: when this attempt was due, by the backend's clock: milliseconds since the epoch.
    """

    id: str
    queue: str
    handler: str
    attempt: int
    enqueued_ms: int
    due_ms: int

    @property
    def enqueued_at(self) -> datetime:
        """When it was performed, by the performer's clock."""
        return instant_of(self.enqueued_ms)

    @property
    def due_at(self) -> datetime:
        """When this attempt was due, by the backend's clock."""
        return instant_of(self.due_ms)


running_job: ContextVar[JobContext] = ContextVar("offload_running_job")


def current_job() -> JobContext:
    """The job that the calling handler runs for.

    Raises:
        UsageError: outside a handler.
    """
    try:
        return running_job.get()
    except LookupError:
        raise UsageError("current_job() was called outside a handler") from None


_random = random.Random()
# A forked child would otherwise repeat its parent's ids.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_random.seed)


_VERSION_AND_VARIANT = 0x7000_8000_0000_0000_0000
_RANDOM = 0x0FFF_0FFF_FFFF_FFFF_FFFF


def new_job_id(now_ms: int) -> str:
    """A UUID of version 7 as 32 hex digits: unique, and sorted by the time of its making."""
    number = now_ms << 80 | _VERSION_AND_VARIANT | _random.getrandbits(80) & _RANDOM
    return number.to_bytes(16, "big").hex()  # half the cost of formatting it
