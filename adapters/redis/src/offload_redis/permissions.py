"""What a user must be allowed to do, and a word when something of it is missing."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from offload import BackendError
from offload_redis import scripts
from offload_redis.commands import Commands
from offload_redis.keys import QueueKeys
from offload_redis.scripts import Argument, Call

log = logging.getLogger("offload")

Wishes = Mapping[str, tuple[str, ...]]

PERFORMING: Wishes = {
    "GET": ("sent",),
    "SET": ("sent",),
    "RPUSH": ("ready",),
    "ZADD": ("later", "wake"),
    "ZRANGE": ("later",),
}
"""The commands by which jobs are stored, each with the keys that it is for."""
WORKING: Wishes = {
    "BZPOPMIN": ("wake",),
    "DEL": ("wake",),
    "EXISTS": ("ready",),
    "EXPIRE": ("wake",),
    "HDEL": ("running", "numbers"),
    "HEXISTS": ("running",),
    "HGET": ("running", "numbers", "dead_jobs"),
    "HKEYS": ("running", "dead_jobs", "dead_reasons"),
    "HLEN": ("dead_jobs", "dead_reasons"),
    "HMGET": ("running",),
    "HSET": ("running", "numbers", "dead_jobs", "dead_reasons"),
    "HSETNX": ("dead_jobs", "dead_reasons"),
    "LPOP": ("ready",),
    "LPUSH": ("ready",),
    "RPUSH": ("ready",),
    "ZADD": ("later", "leases", "wake", "dead"),
    "ZCARD": ("dead",),
    "ZRANGE": ("later", "leases", "dead"),
    "ZREM": ("leases",),
    "ZREMRANGEBYRANK": ("later",),
    "ZSCORE": ("leases",),
}
"""Those by which they are taken, settled and given back."""

# What a command has behind its key, as far as it must: Redis looks whether it is well formed.
_TAILS: Mapping[str, tuple[str, ...]] = {
    "BZPOPMIN": ("1",),
    "EXPIRE": ("1",),
    "HDEL": ("x",),
    "HEXISTS": ("x",),
    "HGET": ("x",),
    "HMGET": ("x",),
    "HSET": ("x", "y"),
    "HSETNX": ("x", "y"),
    "LPUSH": ("x",),
    "RPUSH": ("x",),
    "SADD": ("x",),
    "SET": ("x",),
    "SISMEMBER": ("x",),
    "WAIT": ("0",),
    "ZADD": ("0", "x"),
    "ZRANGE": ("0", "1"),
    "ZREM": ("x",),
    "ZREMRANGEBYRANK": ("0", "1"),
    "ZSCORE": ("x",),
}
MAX_KEYS = 3
"""At most this many keys are named for each missing command."""


async def check_performing(
    link: Commands, names: str, queues: Sequence[QueueKeys], *, replicas: int
) -> None:
    """Log a warning of what a user can't do who performs jobs into these queues.

    `names` is the key of the set of all queues.
    """
    wishes = [("SISMEMBER", names), ("SADD", names), ("TIME", "")]
    if replicas:
        wishes.append(("WAIT", str(replicas)))
    await _check(link, "perform jobs", [*wishes, *_wishes(PERFORMING, queues)])


async def check_working(link: Commands, queues: Sequence[QueueKeys]) -> None:
    """Log a warning of what a user can't do whose worker has these queues."""
    await _check(link, "work on them as they should", list(_wishes(WORKING, queues)))


def _wishes(wishes: Wishes, queues: Sequence[QueueKeys]) -> Iterable[tuple[str, str]]:
    for keys in queues:
        for command, names in wishes.items():
            yield from ((command, getattr(keys, name)) for name in names)


async def _check(link: Commands, what: str, wishes: Sequence[tuple[str, str]]) -> None:
    arguments: list[Argument] = []
    for command, key in wishes:
        arguments += (command, *([key] if key else ()), *_TAILS.get(command, ()), "")
    try:
        (refused,) = await link.run([Call(scripts.PERMISSIONS, (), tuple(arguments))])
    except BackendError as error:
        log.debug("%s doesn't tell what this user may do: %s", link.where, error)
        return
    missing: dict[str, list[str]] = defaultdict(list)
    for number in refused:
        command, key = wishes[number - 1]
        missing[command].append(key)
    if missing:
        log.warning(
            "%s: this user may not %s; it lacks %s. The adapter's README lists what is needed",
            link.where,
            what,
            ", ".join(_named(command, keys) for command, keys in sorted(missing.items())),
        )


def _named(command: str, keys: Sequence[str]) -> str:
    shown = [key for key in keys[:MAX_KEYS] if key]
    if len(keys) > MAX_KEYS:
        shown.append("…")
    return f"{command} on {' '.join(shown)}" if shown else command
