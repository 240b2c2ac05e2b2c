"""The options of an AMQP config string, besides those that every worker has."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from offload.config import (
    Address,
    Config,
    Option,
    duration,
    one_of,
    read_config,
    some_text,
)

QUEUE_TYPE = Option("queue_type", "quorum", one_of("quorum", "classic"))
"""What the queues are, for ever after they were declared first."""
DECLARE = Option("declare", "true", one_of("true", "false"))
"""Whether queues are declared when they are missing; false where an operator declares them."""
LEASE = Option(
    "lease", timedelta(seconds=10), duration(timedelta(seconds=2), timedelta(minutes=20))
)
"""How long a worker may be silent before the broker gives its jobs to others: two heartbeats."""
TIMEOUT = Option(
    "timeout", timedelta(seconds=10), duration(timedelta(milliseconds=100), timedelta(minutes=5))
)
"""How long the broker may take for any one call."""
CONSUMER_TIMEOUT = Option(
    "consumer_timeout", timedelta(minutes=30), duration(timedelta(seconds=1), timedelta(days=3650))
)
"""What the broker's setting of that name is: after so long it takes a job back."""

SSL_CA_CERTS: Option[str | None] = Option("ssl_ca_certs", None, some_text)
"""A file of certificates that are trusted, besides those of the system."""
SSL_CERTFILE: Option[str | None] = Option("ssl_certfile", None, some_text)
"""A file with our own certificate, for a broker that demands one."""
SSL_KEYFILE: Option[str | None] = Option("ssl_keyfile", None, some_text)
"""A file with its key, if that isn't in the same one."""
SSL_CERT_REQS = Option("ssl_cert_reqs", "required", one_of("required", "optional", "none"))
"""Whether the broker's certificate and host name are checked; `optional` does so, too."""

_ALWAYS: tuple[Option[Any], ...] = (
    QUEUE_TYPE,
    DECLARE,
    LEASE,
    TIMEOUT,
    CONSUMER_TIMEOUT,
)
_TLS: tuple[Option[Any], ...] = (SSL_CA_CERTS, SSL_CERTFILE, SSL_KEYFILE, SSL_CERT_REQS)


def options_of(scheme: str) -> tuple[Option[Any], ...]:
    """The options of a config string with this scheme."""
    return (*_ALWAYS, *_TLS) if scheme == "amqps" else _ALWAYS


def config_of(address: Address) -> Config:
    """The config of an address, by its scheme's options.

    Raises:
        ConfigError: an option is unknown, or wrong.
    """
    return read_config(address, options_of(address.scheme))
