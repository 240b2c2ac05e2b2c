"""Gives back what dead workers had: leases that have run out, and whatever nobody holds."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from offload import BackendError
from offload_redis import scripts
from offload_redis.batches import batches
from offload_redis.commands import Commands
from offload_redis.errors import translate
from offload_redis.keys import QueueKeys
from offload_redis.scripts import Call
from offload_redis.session import Session

log = logging.getLogger("offload")


RETRY_SECONDS = 1.0
"""After a sweep that failed: who was ended in it is not seen a second time."""


class Sweeper:
    """Sweeps the queues of one worker, once a lease, and when the time of a suspect is up."""

    def __init__(
        self, sessions: Sequence[Session], names: str, link: Commands, lease: timedelta
    ) -> None:
        """`sessions` are the worker's own; `names` is the key of the set of all queues."""
        self._sessions = sessions
        self._names = names
        self._link = link
        self._seconds = lease.total_seconds()
        self._next = 0.0
        self._not_before = 0.0
        self._failing: set[str] = set()

    @property
    def is_due(self) -> bool:
        """Whether it is time."""
        return self.seconds_left == 0.0

    @property
    def seconds_left(self) -> float:
        """How long until it is."""
        return max(0.0, self._next - time.monotonic())

    def expect(self, seconds: float) -> None:
        """Sweep at the latest after these seconds: then the time of a suspect is up."""
        self._next = min(self._next, max(self._not_before, time.monotonic() + seconds))

    async def sweep(self) -> None:
        """Sweep. It can be cut short anywhere; the next worker does the rest."""
        self._next = time.monotonic() + self._seconds * random.uniform(0.8, 1.2)
        try:
            replies = await self._link.run_each([session.lapse() for session in self._sessions])
            for session, reply in zip(self._sessions, replies, strict=True):
                await self._sweep(session.keys, reply)
            # A server that came back empty, or was flushed, has forgotten the names, too.
            queues = [session.keys.queue for session in self._sessions]
            await self._link.ask("SADD", self._names, *queues)
        except BackendError as error:
            self._failed("", error)
        else:
            self._failing.discard("")

    async def _sweep(self, keys: QueueKeys, reply: object) -> None:
        """One queue, whose trouble is not the others'."""
        if isinstance(reply, Exception):
            self._failed(keys.queue, translate(reply, self._link.where, maybe_stored=False))
            return
        try:
            await self._reclaim(keys, reply)
            await self._adopt(keys)
        except BackendError as error:
            self._failed(keys.queue, error)
        except Exception:
            self._next = self._not_before = time.monotonic() + self._seconds
            log.exception("queue %s can't be swept", keys.queue)
        else:
            self._failing.discard(keys.queue)

    async def _reclaim(self, keys: QueueKeys, reply: Any) -> None:
        sessions, fields = reply
        if orphans := _orphans(fields, set(sessions)):
            log.warning("queue %s: %d jobs of dead workers go back", keys.queue, len(orphans))
            where = (keys.running, keys.leases, keys.ready, keys.wake)
            await self._link.run(
                [Call(scripts.RECLAIM, where, tuple(batch)) for batch in batches(orphans)]
            )

    async def _adopt(self, keys: QueueKeys) -> None:
        where = (keys.dead, keys.dead_jobs, keys.dead_reasons)
        (adopted,) = await self._link.run([Call(scripts.ADOPT, where)])
        if adopted:
            log.warning("queue %s: %d dead letters were there by half", keys.queue, adopted)

    def _failed(self, queue: str, error: BackendError) -> None:
        """Try again soon; said once, until it works again."""
        self._next = self._not_before = time.monotonic() + RETRY_SECONDS
        if queue not in self._failing:
            self._failing.add(queue)
            where = f"queue {queue}" if queue else "a sweep"
            log.info("%s: leases that have run out can't be looked for now: %s", where, error)


def _orphans(fields: Sequence[bytes], sessions: set[bytes]) -> list[bytes]:
    """The fields that no living session holds, the one that was taken last first."""
    orphans = []
    for field in fields:
        session, _, number = field.rpartition(b".")
        if session not in sessions:
            is_ours = number.isdigit() and len(number) < 20
            orphans.append((int(number) if is_ours else 0, field))
    return [field for _, field in sorted(orphans, reverse=True)]
