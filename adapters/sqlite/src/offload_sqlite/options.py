"""The options of a `sqlite:///` config string, besides those that every worker has."""

import os
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

from offload import ConfigError
from offload.config import NAMESPACE, Address, Config, Option, duration, one_of


def _mode(text: str) -> int | None:
    mode = int(text, 8) if re.fullmatch("0?[0-7]{3}", text) else 0
    if mode & 0o600 == 0o600 and mode & ~0o666 == 0:
        return mode
    raise ValueError("an octal mode from 600 to 666, without execution, as 600 or 660")


SYNCHRONOUS = Option("synchronous", "normal", one_of("normal", "full"))
BUSY_TIMEOUT = Option(
    "busy_timeout",
    timedelta(seconds=5),
    duration(timedelta(milliseconds=1), timedelta(minutes=5)),
)
LONGEST_LEASE = timedelta(days=1)
LEASE = Option("lease", timedelta(seconds=30), duration(timedelta(milliseconds=300), LONGEST_LEASE))
MODE: Option[int | None] = Option("mode", None, _mode)

OPTIONS: tuple[Option[Any], ...] = (SYNCHRONOUS, BUSY_TIMEOUT, LEASE, MODE)


def database_path(address: Address) -> Path:
    """The file that a config string names: `sqlite:///relative` or `sqlite:////absolute`.

    Raises:
        ConfigError: it names none.
    """
    form = "write sqlite:///jobs.db for a relative path, sqlite:////var/lib/jobs.db for an absolute"
    if address.host or address.username is not None or address.port is not None:
        raise ConfigError(f"sqlite:// takes no host; {form}")
    path = address.path[1:]
    name = path.rpartition("/")[2]
    if name in ("", ".", "..", ":memory:") or "\0" in path or not _can_be_named(path):
        raise ConfigError(f"sqlite:// needs the path of a file; {form}")
    return Path(path)


def _can_be_named(path: str) -> bool:
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        return False
    return True


def without_capitals(namespace: str) -> str:
    """SQLite takes two names that differ in case only for the same."""
    return re.sub("[A-Z]", lambda letter: f"~{letter[0].lower()}", namespace)


def table_prefix(config: Config) -> str:
    """What the names of the tables of a namespace begin with.

    Raises:
        ConfigError: SQLite keeps such names for itself.
    """
    namespace = config[NAMESPACE]
    prefix = without_capitals(namespace)
    if f"{prefix}_".startswith("sqlite_"):
        raise ConfigError(
            f"option 'namespace': {namespace!r} is not allowed; SQLite keeps names that begin "
            "with sqlite_ for its own tables"
        )
    return prefix
