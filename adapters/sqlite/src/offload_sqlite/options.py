"""The options of a `sqlite:///` config string, besides those that every worker has."""

from datetime import timedelta
from pathlib import Path
from typing import Any

from offload import ConfigError
from offload.config import Address, Option, duration, one_of

SYNCHRONOUS = Option("synchronous", "normal", one_of("normal", "full"))
BUSY_TIMEOUT = Option(
    "busy_timeout",
    timedelta(seconds=5),
    duration(timedelta(milliseconds=1), timedelta(minutes=5)),
)
LEASE = Option(
    "lease", timedelta(seconds=30), duration(timedelta(milliseconds=300), timedelta(days=1))
)

OPTIONS: tuple[Option[Any], ...] = (SYNCHRONOUS, BUSY_TIMEOUT, LEASE)


def database_path(address: Address) -> Path:
    """The file that a config string names: `sqlite:///relative` or `sqlite:////absolute`.

    Raises:
        ConfigError: it names none.
    """
    form = "write sqlite:///jobs.db for a relative path, sqlite:////var/lib/jobs.db for an absolute"
    if address.host or address.username is not None or address.port is not None:
        raise ConfigError(f"sqlite:// takes no host; {form}")
    path = address.path[1:]
    if not path or path == ":memory:" or "\0" in path or path.endswith("/"):
        raise ConfigError(f"sqlite:// needs the path of a file; {form}")
    return Path(path)
