"""One worker's hold on the jobs of one queue.

A lease belongs to the session, so that holding a thousand jobs costs the
update of one number. The jobs are filed under `session.number`, and that is
the fencing token, too: when a session was taken for dead, its jobs are filed
under another's name.
"""

from __future__ import annotations

import secrets
from datetime import timedelta
from typing import Any

from offload import Delivery
from offload_redis import scripts
from offload_redis.batches import MAX_JOBS
from offload_redis.entries import delivery_of
from offload_redis.keys import QueueKeys
from offload_redis.scripts import Call


class Session:
    """The sessions of one worker on one queue, one after the other."""

    def __init__(self, keys: QueueKeys, lease: timedelta) -> None:
        self.keys = keys
        self._lease_ms = lease // timedelta(milliseconds=1)
        self._begin()

    def _begin(self) -> None:
        # With its lease, which others need that find it silent: theirs may be another.
        self.name = f"{secrets.token_hex(8)}-{self._lease_ms}"
        self._is_known = False
        self._next_number = 1

    def fetch(self, limit: int) -> Call:
        """Lease so many jobs. Sent again because its answer was lost, it brings the same ones."""
        keys = self.keys
        return Call(
            scripts.FETCH,
            (keys.ready, keys.later, keys.running, keys.leases, keys.wake, keys.numbers),
            (
                self.name,
                self._lease_ms,
                self._next_number,
                min(limit, MAX_JOBS),
                "" if self._is_known else "begin",
            ),
        )

    def read(self, entries: list[bytes], next_number: int) -> list[Delivery]:
        """The deliveries in the answer to `fetch`."""
        self._is_known = True
        first, queue, name = self._next_number, self.keys.queue, self.name
        # The server's word counts: with another number every later call would look like an old one.
        self._next_number = next_number
        return [
            delivery_of(entry, queue, f"{name}.{number}")
            for number, entry in enumerate(entries, first)
        ]

    def end(self) -> None:
        """It was taken for dead: the next fetch begins another."""
        self._begin()

    def extend(self) -> Call:
        """Hold its leases for longer; answers whether it still does."""
        return Call(scripts.EXTEND, (self.keys.leases,), (self.name, self._lease_ms))

    def lapse(self) -> Call:
        """End the sessions of this queue that were silent for a lease, but never this one."""
        keys = self.keys
        where = (keys.running, keys.leases, keys.numbers)
        return Call(scripts.LAPSE, where, (self.name, self._lease_ms))

    def leave(self) -> Call:
        """Give back what it still has, as if never taken."""
        keys = self.keys
        where = (keys.running, keys.leases, keys.ready, keys.wake, keys.numbers)
        return Call(scripts.LEAVE, where, (self.name,))


def session_of(receipt: Any) -> str:
    """The name of the session under which a delivery was taken."""
    return str(receipt).partition(".")[0]
