"""The jobs that failed for good."""

from __future__ import annotations

from collections.abc import Sequence

from offload import StoredDeadLetter
from offload_redis import scripts
from offload_redis.batches import batches
from offload_redis.commands import Commands
from offload_redis.entries import decode_reason, read_entry
from offload_redis.keys import QueueKeys
from offload_redis.scripts import Call


async def page(
    link: Commands, queues: Sequence[QueueKeys], limit: int, after: str | None
) -> list[StoredDeadLetter]:
    """Up to `limit` of all queues, the oldest first, behind the one whose id is `after`."""
    died = b"-inf"
    if after is not None:
        scores = [await link.ask("ZSCORE", keys.dead, after) for keys in queues]
        died = next((score for score in scores if score is not None), died)
    calls = [
        Call(
            scripts.DEAD_PAGE,
            (keys.dead, keys.dead_jobs, keys.dead_reasons),
            (died, after or "", limit),
        )
        for keys in queues
    ]
    letters: list[StoredDeadLetter] = []
    for keys, found in zip(queues, await link.run(calls) if calls else (), strict=True):
        letters += (_letter(keys.queue, *found[i : i + 3]) for i in range(0, len(found), 3))
    letters.sort(key=lambda letter: (letter.died_ms, letter.id))
    return letters[:limit]


async def show(link: Commands, queues: Sequence[QueueKeys], job_id: str) -> StoredDeadLetter | None:
    """The one with this id."""
    for keys in queues:
        entry = await link.ask("HGET", keys.dead_jobs, job_id)
        if entry is not None:
            died = await link.ask("ZSCORE", keys.dead, job_id)
            reason = await link.ask("HGET", keys.dead_reasons, job_id)
            return _letter(keys.queue, died, entry, reason)
    return None


async def requeue(link: Commands, queues: Sequence[QueueKeys], ids: Sequence[str]) -> list[str]:
    """Put them back to the ends of their queues; one script moves each.

    It isn't sent again when its answer is lost: that would tell of fewer than were moved.
    """
    calls = [
        Call(
            scripts.REQUEUE,
            (keys.ready, keys.wake, keys.dead, keys.dead_jobs, keys.dead_reasons),
            tuple(batch),
        )
        for keys in queues
        for batch in batches(ids)
    ]
    return await _ids(link, calls)


async def discard(link: Commands, queues: Sequence[QueueKeys], ids: Sequence[str]) -> list[str]:
    """Forget them."""
    calls = [
        Call(scripts.DISCARD, (keys.dead, keys.dead_jobs, keys.dead_reasons), tuple(batch))
        for keys in queues
        for batch in batches(ids)
    ]
    return await _ids(link, calls)


async def _ids(link: Commands, calls: Sequence[Call]) -> list[str]:
    replies = await link.run(calls, once=True) if calls else ()
    return [job_id.decode() for reply in replies for job_id in reply]


def _letter(
    queue: str, died: bytes | None, entry: bytes | None, reason: bytes | None
) -> StoredDeadLetter:
    job_id, _, _, body = read_entry(entry or b"", "")
    return StoredDeadLetter(job_id, queue, body, int(float(died or 0)), decode_reason(reason))
