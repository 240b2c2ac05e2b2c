"""`bare://`: an adapter for a library with a loop of its own."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

from offload import Adapter, Claims, Delivery, Entry, Limits, PushDriver, Verdict, hookimpl
from offload.config import CONCURRENCY, Config
from offload_mutants.bare_library import Library, Task, now_ms


class BareDriver(PushDriver):
    """Carries jobs to the library, and the verdicts on them."""

    def __init__(self, config: Config) -> None:
        self._library = Library(config[CONCURRENCY], self._work)

    async def open(self) -> None:
        """Nothing to connect to."""

    async def enqueue(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            due_ms = after(entry.delay_ms) if entry.at_ms is None else entry.at_ms
            self._library.put(Task(due_ms, entry.id, entry.queue, entry.body))

    async def begin(self, queues: Sequence[str]) -> None:
        self._library.begin(queues)

    async def end(self) -> None:
        await self._library.end()

    async def close(self) -> Sequence[str]:
        await self._library.finish()
        return [task.id for task in self._library.waiting()]

    async def _work(self, task: Task) -> None:
        """Called by the library's loop."""
        attempt = task.runs + 1
        delivery = Delivery(task.id, task.queue, task.body, attempt, task.due_ms, task)
        try:
            settlement = await self.run(delivery)
        except asyncio.CancelledError:  # the event loop ends without a stop
            self._library.put(task)
            raise
        match settlement.verdict:
            case Verdict.RETRY:
                task.runs, task.due_ms = attempt, after(settlement.delay_ms)
                self._library.put(task)
            case Verdict.RELEASE:  # it goes back as it was: this run doesn't count
                self._library.put(task)
            case Verdict.ACKNOWLEDGE | Verdict.DEAD_LETTER:
                pass  # forgotten: dead letters aren't claimed


def after(delay_ms: int) -> int:
    """When a delay ends: never early, since of the current millisecond a part is over."""
    return now_ms() + delay_ms + (delay_ms > 0)


ADAPTER = Adapter(
    claims=Claims(fifo=True, durable=False, distributed=False, dead_letters=False),
    limits=Limits(
        max_job_bytes=100_000,
        max_delay=timedelta(days=30),
        lateness=timedelta(milliseconds=50),
    ),
    make=BareDriver,
)


@hookimpl
def offload_adapter(scheme: str) -> Adapter | None:
    """The adapter for `bare://`."""
    return ADAPTER if scheme == "bare" else None
