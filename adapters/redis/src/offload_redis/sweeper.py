"""Gives back what dead workers had: leases that have run out, and whatever nobody holds."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Sequence
from datetime import timedelta

from offload import BackendError
from offload_redis import scripts
from offload_redis.batches import batches
from offload_redis.commands import Commands
from offload_redis.keys import QueueKeys
from offload_redis.scripts import Call

log = logging.getLogger("offload")


RETRY_SECONDS = 1.0
"""After a sweep that failed: what has lapsed is not seen a second time."""


class Sweeper:
    """Sweeps the queues of one worker, once a lease, and when a lease is seen to have run out."""

    def __init__(
        self, queues: Sequence[QueueKeys], names: str, link: Commands, lease: timedelta
    ) -> None:
        """`names` is the key of the set of all queues."""
        self._queues = queues
        self._names = names
        self._link = link
        self._seconds = lease.total_seconds()
        self._next = 0.0

    @property
    def is_due(self) -> bool:
        """Whether it is time."""
        return time.monotonic() >= self._next

    def hasten(self) -> None:
        """A lease has run out: don't wait."""
        self._next = 0.0

    async def sweep(self) -> None:
        """Sweep. It can be cut short anywhere; the next worker does the rest."""
        self._next = time.monotonic() + self._seconds * random.uniform(0.8, 1.2)
        ends = [
            Call(scripts.LAPSE, (keys.running, keys.leases, keys.numbers)) for keys in self._queues
        ]
        try:
            for keys, (sessions, fields) in zip(
                self._queues, await self._link.run(ends), strict=True
            ):
                if orphans := _orphans(fields, set(sessions)):
                    await self._reclaim(keys, orphans)
            # A server that came back empty, or was flushed, has forgotten the names, too.
            await self._link.ask("SADD", self._names, *(keys.queue for keys in self._queues))
        except BackendError as error:
            self._next = time.monotonic() + RETRY_SECONDS
            log.info("leases that have run out can't be looked for now: %s", error)

    async def _reclaim(self, keys: QueueKeys, fields: list[bytes]) -> None:
        log.warning("queue %s: %d jobs of dead workers go back", keys.queue, len(fields))
        where = (keys.running, keys.leases, keys.ready, keys.wake)
        await self._link.run(
            [Call(scripts.RECLAIM, where, tuple(batch)) for batch in batches(fields)]
        )


def _orphans(fields: list[bytes], sessions: set[bytes]) -> list[bytes]:
    """The fields that no living session holds, the one that was taken last first."""
    orphans = []
    for field in fields:
        session, _, number = field.rpartition(b".")
        if session not in sessions:
            orphans.append((int(number) if number.isdigit() else 0, field))
    return [field for _, field in sorted(orphans, reverse=True)]
