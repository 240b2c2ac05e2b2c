"""Dead letters as an application sees them: decoded, where they can be."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from offload import envelope
from offload.driver import DeadLetterStore, StoredDeadLetter
from offload.worker import DeadLetter

Look = Callable[[Callable[[DeadLetterStore], Awaitable[Any]]], Awaitable[Any]]
"""Carries out an action with an open driver."""


class StoredDeadLetters:
    """Access to the dead letters of a driver."""

    def __init__(self, look: Look) -> None:
        self._look = look

    async def list(self, limit: int = 100, after: str | None = None) -> Sequence[DeadLetter]:
        found = await self._look(lambda store: store.list_dead(limit, after))
        return [_decoded(stored) for stored in found]

    async def show(self, job_id: str) -> DeadLetter | None:
        stored = await self._look(lambda store: store.show_dead(job_id))
        return None if stored is None else _decoded(stored)

    async def requeue(self, ids: Sequence[str]) -> Sequence[str]:
        requeued: Sequence[str] = await self._look(lambda store: store.requeue_dead(ids))
        return requeued

    async def discard(self, ids: Sequence[str]) -> Sequence[str]:
        discarded: Sequence[str] = await self._look(lambda store: store.discard_dead(ids))
        return discarded


def _decoded(stored: StoredDeadLetter) -> DeadLetter:
    handler, args = None, None
    try:
        job = envelope.decode(stored.body)
        handler, args = job.handler, job.args
    except (envelope.UndecodableError, envelope.NewerVersionError):
        pass  # whoever looks wants to see that it is there, most of all
    return DeadLetter(
        id=stored.id,
        queue=stored.queue,
        handler=handler,
        args=args,
        attempts=stored.failure.attempts,
        error=stored.failure.error,
        traceback=stored.failure.traceback,
        died_ms=stored.died_ms,
        cursor=stored.cursor,
    )
