"""What a server's settings make of "durable", found out when a worker connects."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from offload import BackendError
from offload.config import Config
from offload_redis.commands import Commands
from offload_redis.errors import translate

log = logging.getLogger("offload")

OLDEST = (6, 2)


async def check_server(link: Commands, config: Config) -> str:
    """Connect; refuse a server that is too old; warn of settings that can lose jobs.

    Returns how far "durable" reaches there, in a few words.

    Raises:
        BackendError: the server is away, lets us not in, or is too old.
    """
    ping, info, fsync = await link.execute((("PING",), ("INFO",), ("CONFIG", "GET", "appendfsync")))
    if isinstance(ping, Exception):
        raise translate(ping, str(config), maybe_stored=False) from ping
    if isinstance(info, Exception):
        log.info("%s doesn't say how it is set up (%s)", config, info)
        return "unknown: this user may not ask for the server's settings"
    facts = _facts(info)
    _refuse_if_old(facts.get("redis_version", ""), config)
    for warning in _warnings(facts):
        log.warning("%s can lose jobs: %s", config, warning)
    return _reach(facts, "" if isinstance(fsync, Exception) else fsync[1].decode())


def _facts(info: bytes) -> dict[str, str]:
    lines = info.decode("utf-8", "replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line and not line.startswith("#"))


def _refuse_if_old(version: str, config: Config) -> None:
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers and numbers < OLDEST:
        raise BackendError(f"{config} is Redis {version}; 6.2 or later is needed")


def _warnings(facts: Mapping[str, str]) -> list[str]:
    warnings = []
    if facts.get("aof_enabled") == "0":
        warnings.append(
            "it keeps no append-only file, so what was accepted since its last snapshot is lost "
            "when it dies; set appendonly yes"
        )
    policy = facts.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        warnings.append(
            f"it evicts keys when its memory is full ({policy}); set maxmemory-policy noeviction"
        )
    return warnings


def _reach(facts: Mapping[str, str], fsync: str) -> str:
    """By what the append-only file is written, and how often the disk gets it."""
    if facts.get("aof_enabled") == "0":
        return "workers killed; a killed server loses what came since its last snapshot"
    return {
        "always": "workers and server killed, and power loss",
        # While a sync is under way, what was answered is not even handed to the system.
        "everysec": "workers killed; a killed server or a power loss takes the last two seconds",
        "no": "workers and server killed; a power loss takes what the system had not written",
    }.get(fsync, "workers and server killed; power loss unknown")
