"""The options of a Redis config string, besides those that every worker has."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from offload.config import Option, duration, integer, one_of, some_text

LEASE = Option("lease", timedelta(seconds=15), duration(timedelta(seconds=1), timedelta(days=1)))
"""How long a worker may be silent before others take over what it has."""
TIMEOUT = Option(
    "timeout", timedelta(seconds=5), duration(timedelta(milliseconds=100), timedelta(minutes=5))
)
"""How long the server may take for any one call."""
WAIT_REPLICAS = Option("wait_replicas", 0, integer(0, 100))
"""How many replicas must have a job before its perform returns."""

DATABASE = Option("db", 0, integer(0, 1_000_000))
"""The number of the database, where the path is taken by the socket's."""


def _file(text: str) -> str:
    """The path from the root: a handler may change the working directory before it is opened."""
    path = Path(text).absolute()
    if not path.is_file():
        raise ValueError("the path of a file")
    return str(path)


SSL_CA_CERTS: Option[str | None] = Option("ssl_ca_certs", None, _file)
SSL_CERTFILE: Option[str | None] = Option("ssl_certfile", None, _file)
SSL_KEYFILE: Option[str | None] = Option("ssl_keyfile", None, _file)
SSL_CERT_REQS = Option("ssl_cert_reqs", "required", one_of("required", "optional", "none"))

SENTINEL_USERNAME: Option[str | None] = Option("sentinel_username", None, some_text)
SENTINEL_PASSWORD: Option[str | None] = Option("sentinel_password", None, some_text, secret=True)

COMMON: tuple[Option[Any], ...] = (LEASE, TIMEOUT, WAIT_REPLICAS)
SENTINEL: tuple[Option[Any], ...] = (SENTINEL_USERNAME, SENTINEL_PASSWORD)
TLS: tuple[Option[Any], ...] = (SSL_CA_CERTS, SSL_CERTFILE, SSL_KEYFILE, SSL_CERT_REQS)
