"""How each scheme reaches its server."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from offload import ConfigError
from offload.config import Config
from offload_redis import options
from offload_redis.cluster import ClusterLink, Node
from offload_redis.commands import Commands
from offload_redis.credentials import credentials_of
from offload_redis.link import Link
from offload_redis.sentinel import SentinelLink

DEFAULT_PORT = 6379
SENTINEL_PORT = 26379
MAX_SOCKET_PATH = 107
"""Bytes; of any socket's path, on Linux."""


class Server(ABC):
    """What a config string names. Nothing is connected before the first command."""

    dies_with_us = False
    """Whether it is part of this process."""

    def __init__(self, config: Config) -> None:
        self._where = str(config)
        self._timeout = config[options.TIMEOUT].total_seconds()
        self._credentials = credentials_of(config.address.username, config.address.password)

    @abstractmethod
    def link(self, timeout: float) -> Commands:
        """A new way in, on which one batch is under way at a time; a reply may take so long."""

    def commands(self) -> Commands:
        """A new way in, with the configured timeout."""
        return self.link(self._timeout)

    def places(self, keys: Sequence[str], timeout: float) -> list[tuple[Commands, Sequence[str]]]:
        """New ways in, each with the keys that one command may block on there."""
        return [(self.link(timeout), keys)]

    def _settings(self) -> dict[str, Any]:
        # The link has one deadline for all that it does, and tries again by itself.
        return {
            "credential_provider": self._credentials,
            "protocol": 2,
            "socket_timeout": None,
            "socket_connect_timeout": None,
            "retry": Retry(NoBackoff(), 0),
            "driver_info": None,
        }


class PlainServer(Server):
    """`redis://host:port/database`, and `rediss://` with TLS."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        ((host, port),) = _hosts(config, DEFAULT_PORT, most=1)
        self._location: dict[str, Any] = {"host": host, "port": port, "db": _database(config)}
        self._is_tls = config.address.scheme == "rediss"
        if self._is_tls:
            self._location |= {option.name: config[option] for option in options.TLS}

    def link(self, timeout: float) -> Commands:
        kind = SSLConnection if self._is_tls else Connection
        return Link(kind(**self._location, **self._settings()), self._where, timeout)


class SocketServer(Server):
    """`unix:///run/redis.sock`."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        address = config.address
        if address.host or not address.path.strip("/"):
            raise ConfigError("unix:// needs the path of a socket: unix:///run/redis.sock?db=0")
        if len(os.fsencode(address.path)) > MAX_SOCKET_PATH:
            raise ConfigError(
                f"unix:// takes a path of up to {MAX_SOCKET_PATH} bytes: the system allows no more"
            )
        self._path, self._database = address.path, config[options.DATABASE]

    def link(self, timeout: float) -> Commands:
        connection = UnixDomainSocketConnection(
            path=self._path, db=self._database, **self._settings()
        )
        return Link(connection, self._where, timeout)


class SentinelServer(Server):
    """`redis+sentinel://host:port,host:port/service`: the master that the sentinels know of."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._sentinels = _hosts(config, SENTINEL_PORT)
        self._service, self._database = _service(config)
        self._sentinel_credentials = credentials_of(
            config[options.SENTINEL_USERNAME], config[options.SENTINEL_PASSWORD]
        )
        # One that is down must not use up the time of a call.
        self._sentinel_timeout = self._timeout / (len(self._sentinels) + 1)

    def link(self, timeout: float) -> Commands:
        def make_link(node: Node) -> Link:
            host, port = node
            connection = Connection(host=host, port=port, db=self._database, **self._settings())
            return Link(connection, f"{self._where} ({host}:{port})", timeout)

        def make_sentinel_link(node: Node) -> Link:
            settings = self._settings() | {"credential_provider": self._sentinel_credentials}
            connection = Connection(host=node[0], port=node[1], **settings)
            return Link(connection, f"sentinel {node[0]}:{node[1]}", self._sentinel_timeout)

        return SentinelLink(
            self._sentinels, self._service, make_sentinel_link, make_link, self._where
        )


class FakeServer(Server):
    """A server inside this process, by fakeredis: the whole adapter, for people's tests."""

    dies_with_us = True

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        try:
            import fakeredis  # an extra
        except ImportError:
            raise ConfigError(
                "redis+fake:// needs fakeredis: pip install 'offload-redis[fake]'"
            ) from None
        self._fakeredis = fakeredis
        self._server = fakeredis.FakeServer.get_server(
            config.address.host or "", version=(7,), server_type="redis"
        )

    def link(self, timeout: float) -> Commands:
        client = self._fakeredis.FakeAsyncRedis(server=self._server, protocol=2)
        connection = client.connection_pool.make_connection()  # type: ignore[no-untyped-call]
        return Link(connection, self._where, timeout)


class ClusterServer(Server):
    """`redis+cluster://host:port,host:port`: any of its nodes knows the others."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        if config.address.path.strip("/"):
            raise ConfigError("redis+cluster:// takes no database: a cluster has only one")
        self._nodes = _hosts(config, DEFAULT_PORT)

    def link(self, timeout: float) -> Commands:
        def make_link(node: Node) -> Link:
            host, port = node
            connection = Connection(host=host, port=port, **self._settings())
            return Link(connection, f"{self._where} (node {host}:{port})", timeout)

        return ClusterLink(self._nodes, make_link, self._where, timeout)

    def places(self, keys: Sequence[str], timeout: float) -> list[tuple[Commands, Sequence[str]]]:
        # One command can only block on keys of one slot.
        return [(self.link(timeout), (key,)) for key in keys]


_KINDS: dict[str, type[Server]] = {
    "redis": PlainServer,
    "rediss": PlainServer,
    "unix": SocketServer,
    "redis+sentinel": SentinelServer,
    "redis+cluster": ClusterServer,
    "redis+fake": FakeServer,
}


def server_of(config: Config) -> Server:
    """The server that a config string names.

    Raises:
        ConfigError: it names none.
    """
    return _KINDS[config.address.scheme](config)


def _hosts(config: Config, default_port: int, most: int | None = None) -> list[Node]:
    address = config.address
    hosts = address.hosts or (("localhost", None),)
    if most is not None and len(hosts) > most:
        raise ConfigError(f"{address.scheme}:// takes one host; of several, redis+cluster:// does")
    return [(host or "localhost", port or default_port) for host, port in hosts]


def _database(config: Config) -> int:
    return _number(config, config.address.path.strip("/"))


def _number(config: Config, text: str) -> int:
    if text and not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ConfigError(f"{config}: the database must be a whole number")
    return int(text or 0)


def _service(config: Config) -> tuple[str, int]:
    service, _, database = config.address.path.strip("/").partition("/")
    if not service:
        raise ConfigError(
            "redis+sentinel:// needs the name of a service: redis+sentinel://host:26379/mymaster"
        )
    return service, _number(config, database)
