"""One run of one job."""

from __future__ import annotations

import asyncio
from enum import Enum

import msgspec

from offload.driver import Delivery
from offload.engine.registry import Registered
from offload.job import Args, JobContext


class Interruption(Enum):
    """Why the engine cancelled a run."""

    STOPPING = "the worker stopped"
    LEASE_LOST = "its lease was lost"
    TIMED_OUT = "it took too long"
    """The only one that is a failure of the job's."""


class Run(msgspec.Struct, eq=False):
    """A delivery with its handler, while it runs."""

    delivery: Delivery
    handler: Registered
    context: JobContext
    args: Args
    task: asyncio.Future[None] | None = None
    interruption: Interruption | None = None
    timer: asyncio.TimerHandle | None = None

    def interrupt(self, why: Interruption) -> None:
        """Cancel the handler, as far as it can be."""
        self.interruption = why
        if self.task is not None:
            self.task.cancel()
