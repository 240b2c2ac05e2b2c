"""Dead letters as an application sees them: decoded, where they can be."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from offload import envelope
from offload.driver import DeadLetterStore, DeadLetterSweep, StoredDeadLetter
from offload.errors import UsageError
from offload.worker import DeadLetter

Look = Callable[[Callable[[DeadLetterStore], Awaitable[Any]]], Awaitable[Any]]
"""Carries out an action with an open driver."""
PAGE = 100
"""Dead letters that are taken out together, where all are."""


class StoredDeadLetters:
    """Access to the dead letters of a driver."""

    def __init__(self, look: Look) -> None:
        self._look = look

    async def list(self, limit: int = 100, after: str | None = None) -> Sequence[DeadLetter]:
        if not isinstance(limit, int) or isinstance(limit, bool):
            raise UsageError(f"limit: {limit!r} is not a whole number")
        if after is not None and not isinstance(after, str):
            raise UsageError(f"after: {after!r} is not the cursor of a dead letter")
        found = await self._look(lambda store: store.list_dead(limit, after))
        return [_decoded(stored) for stored in found]

    async def show(self, job_id: str) -> DeadLetter | None:
        _check_ids([job_id])
        stored = await self._look(lambda store: store.show_dead(job_id))
        return None if stored is None else _decoded(stored)

    async def requeue(self, ids: Sequence[str]) -> Sequence[str]:
        _check_ids(ids)
        requeued: Sequence[str] = await self._look(lambda store: store.requeue_dead(ids))
        return requeued

    async def discard(self, ids: Sequence[str]) -> Sequence[str]:
        _check_ids(ids)
        discarded: Sequence[str] = await self._look(lambda store: store.discard_dead(ids))
        return discarded

    async def requeue_all(self) -> int:
        count: int = await self._look(_requeue_all)
        return count

    async def discard_all(self) -> int:
        count: int = await self._look(_discard_all)
        return count


def _check_ids(ids: Any) -> None:
    if isinstance(ids, str) or not isinstance(ids, Sequence):
        raise UsageError(f"ids: a list of ids is wanted, not {ids!r}")
    for job_id in ids:
        if not isinstance(job_id, str):
            raise UsageError(f"{job_id!r} is not the id of a dead letter")


async def _requeue_all(store: DeadLetterStore) -> int:
    if isinstance(store, DeadLetterSweep):
        return await store.requeue_all_dead()
    return await _by_page(store, store.requeue_dead)


async def _discard_all(store: DeadLetterStore) -> int:
    if isinstance(store, DeadLetterSweep):
        return await store.discard_all_dead()
    return await _by_page(store, store.discard_dead)


async def _by_page(
    store: DeadLetterStore, remove: Callable[[Sequence[str]], Awaitable[Sequence[str]]]
) -> int:
    """Take out page after page.

    What dies again meanwhile comes up a second time, and is left; and the first page that
    isn't full is the last. Else jobs that always fail would keep this going for ever.
    """
    seen: set[str] = set()
    count, after, is_full = 0, None, True
    while is_full:
        page = await store.list_dead(PAGE, after)
        is_full = len(page) == PAGE
        ids = list(dict.fromkeys(letter.id for letter in page if letter.id not in seen))
        if not ids:
            break
        count += len(await remove(ids))
        seen.update(ids)
        after = page[-1].cursor or page[-1].id
    return count


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
