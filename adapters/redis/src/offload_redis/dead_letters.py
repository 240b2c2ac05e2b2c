"""The jobs that failed for good."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import quote_from_bytes, unquote_to_bytes

from offload import StoredDeadLetter, UsageError
from offload_redis import scripts
from offload_redis.batches import MAX_JOBS, batches
from offload_redis.commands import Commands
from offload_redis.entries import decode_reason, read_entry, representable
from offload_redis.keys import QueueKeys
from offload_redis.scripts import Call

SHOWN_BYTES = 255
"""A longer id is shown by its digest, or nobody could type it."""
_is_plain = re.compile(rb"(?!raw:|long:)[A-Za-z0-9_.:-]{1,255}").fullmatch
_is_score = re.compile(r"-?(inf|\d+(\.\d+)?(e[+-]?\d+)?)").fullmatch


class _Found(NamedTuple):
    """A dead letter as the server has it, and its place among those of all queues."""

    queue: str
    score: bytes
    id: bytes
    entry: bytes | None
    reason: bytes | None

    @property
    def order(self) -> tuple[float, bytes, str]:
        return float(self.score), self.id, self.queue

    @property
    def place(self) -> _Place:
        return _Place(self.score, self.queue, self.id)

    def letter(self) -> StoredDeadLetter:
        return StoredDeadLetter(
            shown(self.id),
            self.queue,
            read_entry(self.entry or b"", "")[3],
            representable(float(self.score)),
            decode_reason(self.reason),
            self.place.cursor(),
        )


class _Place(NamedTuple):
    """Where a dead letter is or was: behind it a page begins."""

    score: bytes
    queue: str
    id: bytes

    def cursor(self) -> str:
        return f"{self.score.decode()}:{self.queue}:{_quoted(self.id)}"


# -- ids -----------------------------------------------------------------------


def shown(job_id: bytes) -> str:
    """An id as text, whatever bytes it has; `_stored` is the way back."""
    if len(job_id) > SHOWN_BYTES:
        return f"long:{hashlib.sha256(job_id).hexdigest()}"
    return _quoted(job_id)


def _quoted(job_id: bytes) -> str:
    return job_id.decode() if _is_plain(job_id) else f"raw:{quote_from_bytes(job_id, safe='')}"


def _unquoted(text: str) -> bytes:
    if text.startswith("raw:"):
        return unquote_to_bytes(text[4:])
    return text.encode("utf-8", "surrogatepass")


async def _stored(link: Commands, queues: Sequence[QueueKeys], ids: Sequence[str]) -> list[bytes]:
    """The ids as they are stored. Those shown by their digest are looked for."""
    long_ids: dict[str, bytes] = {}
    if any(job_id.startswith("long:") for job_id in ids):
        for keys in queues:
            found = await link.ask("ZRANGE", keys.dead, 0, -1)
            long_ids |= {shown(each): each for each in found if len(each) > SHOWN_BYTES}
    return [long_ids.get(job_id) or _unquoted(job_id) for job_id in ids]


# -- looking -------------------------------------------------------------------


async def page(
    link: Commands, queues: Sequence[QueueKeys], limit: int, after: str | None
) -> list[StoredDeadLetter]:
    """Up to `limit` of all queues, the oldest first, behind the place `after`.

    Raises:
        UsageError: `after` is no cursor of ours.
    """
    place = _read_cursor(after)
    letters: list[StoredDeadLetter] = []
    while (size := min(limit - len(letters), MAX_JOBS)) > 0:
        found = await _behind(link, queues, size, place)
        letters += (each.letter() for each in found)
        if len(found) < size:
            break
        place = found[-1].place
    return letters


async def _behind(
    link: Commands, queues: Sequence[QueueKeys], limit: int, place: _Place
) -> list[_Found]:
    calls = [
        Call(
            scripts.DEAD_PAGE,
            (keys.dead, keys.dead_jobs, keys.dead_reasons),
            (place.score, place.id, limit, int(keys.queue > place.queue)),
        )
        for keys in queues
    ]
    found: list[_Found] = []
    for keys, parts in zip(queues, await link.run(calls), strict=True):
        for i in range(0, len(parts), 4):
            letter_id, died, entry, reason = parts[i : i + 4]
            found.append(_Found(keys.queue, died, letter_id, entry, reason))
    found.sort(key=lambda each: each.order)
    return found[:limit]


def _read_cursor(cursor: str | None) -> _Place:
    if cursor is None:
        return _Place(b"-inf", "", b"")
    score, _, rest = cursor.partition(":")
    queue, _, job_id = rest.partition(":")
    if not (_is_score(score) and queue and job_id):
        raise UsageError(f"after: {cursor[:100]!r} is not the cursor of a dead letter")
    return _Place(score.encode(), queue, _unquoted(job_id))


async def show(link: Commands, queues: Sequence[QueueKeys], job_id: str) -> StoredDeadLetter | None:
    """The one with this id."""
    (stored,) = await _stored(link, queues, [job_id])
    calls = [
        Call(scripts.DEAD_SHOW, (keys.dead, keys.dead_jobs, keys.dead_reasons), (stored,))
        for keys in queues
    ]
    for keys, parts in zip(queues, await link.run(calls), strict=True):
        score, entry, reason = parts
        if score is not None or entry is not None:
            return _Found(keys.queue, score or b"0", stored, entry, reason).letter()
    return None


# -- moving --------------------------------------------------------------------


async def requeue(link: Commands, queues: Sequence[QueueKeys], ids: Sequence[str]) -> list[str]:
    """Put them back to the ends of their queues; one script moves each.

    It isn't sent again when its answer is lost: that would tell of fewer than were moved.
    """
    stored = await _stored(link, queues, ids)
    calls = [
        Call(
            scripts.REQUEUE,
            (keys.ready, keys.wake, keys.dead, keys.dead_jobs, keys.dead_reasons),
            tuple(batch),
        )
        for keys in queues
        for batch in batches(stored)
    ]
    return await _ids(link, calls)


async def discard(link: Commands, queues: Sequence[QueueKeys], ids: Sequence[str]) -> list[str]:
    """Forget them."""
    stored = await _stored(link, queues, ids)
    calls = [
        Call(scripts.DISCARD, (keys.dead, keys.dead_jobs, keys.dead_reasons), tuple(batch))
        for keys in queues
        for batch in batches(stored)
    ]
    return await _ids(link, calls)


async def _ids(link: Commands, calls: Sequence[Call]) -> list[str]:
    replies = await link.run(calls, once=True) if calls else ()
    return [shown(job_id) for reply in replies for job_id in reply]
