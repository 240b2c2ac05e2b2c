"""Where everything lies. Part of the wire format: see docs/redis.md."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from offload import InvalidJobError
from offload.validation import check_queue_name

_TYPES = {
    "queues": "set",
    "ready": "list",
    "later": "zset",
    "running": "hash",
    "leases": "zset",
    "numbers": "hash",
    "wake": "zset",
    "dead": "zset",
    "jobs": "hash",
    "reasons": "hash",
}


def queues_key(namespace: str) -> str:
    """The set of the names of all queues."""
    return f"{namespace}:queues"


def type_of(key: str) -> str:
    """The type that Redis should name for one of our keys."""
    # The last part of the numbers of calls is a performer's name.
    return _TYPES.get(key.rpartition(":")[2], "string")


def read_names(members: Iterable[bytes]) -> list[str]:
    """The names of queues among the members of the set; a stranger may have added others."""
    names = []
    for member in members:
        name = member.decode("ascii", "replace")
        with contextlib.suppress(InvalidJobError):
            check_queue_name(name)
            names.append(name)
    return names


class QueueKeys:
    """The keys of one queue. They share a hash tag, so that one script may touch them all."""

    __slots__ = (
        "dead",
        "dead_jobs",
        "dead_reasons",
        "later",
        "leases",
        "numbers",
        "queue",
        "ready",
        "running",
        "sent",
        "wake",
    )

    def __init__(self, namespace: str, queue: str, performer: str) -> None:
        start = f"{namespace}:{{{queue}}}"
        self.queue = queue
        self.ready = f"{start}:ready"
        """List of entries, in the order in which they are taken."""
        self.later = f"{start}:later"
        """Sorted set of entries, by due time."""
        self.running = f"{start}:running"
        """Hash of entries that are leased, by session and number."""
        self.leases = f"{start}:leases"
        """Sorted set of the sessions that hold leases, by when they are suspects, or end."""
        self.numbers = f"{start}:numbers"
        """Hash of the number that each session takes next: a late call brings nothing."""
        self.wake = f"{start}:wake"
        """A marker, when there is something that an idle worker should look at."""
        self.dead = f"{start}:dead"
        """Sorted set of the ids of dead letters, by time of death."""
        self.dead_jobs = f"{start}:dead:jobs"
        """Hash of their entries, by id."""
        self.dead_reasons = f"{start}:dead:reasons"
        """Hash of why they died, by id."""
        self.sent = f"{start}:sent:{performer}"
        """Number of the last call with which this performer enqueued here; forgotten in an hour."""
