"""How each scheme reaches its server."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import redis.asyncio.connection
import redis.asyncio.retry
import redis.connection
import redis.retry
from redis.backoff import NoBackoff

from offload import ConfigError
from offload.config import Config
from offload_redis import options
from offload_redis.cluster import ClusterLink, Node
from offload_redis.commands import Commands
from offload_redis.credentials import credentials_of
from offload_redis.link import Link
from offload_redis.sentinel import SentinelLink
from offload_redis.sync_link import SyncLink, Wires

DEFAULT_PORT = 6379
SENTINEL_PORT = 26379
MAX_SOCKET_PATH = 107
"""Bytes; of any socket's path, on Linux."""


class Client(NamedTuple):
    """One of the two clients that redis-py has, and the links over its connections."""

    connections: Any
    """The module with its connections: those for TCP, TLS and socket files."""
    retry: Any
    """How often it tries again: never."""
    link: Callable[[Callable[[], Any], str, float], Commands]
    """A link over what the first argument makes, with its place and timeout."""


ASYNC = Client(
    redis.asyncio.connection,
    redis.asyncio.retry.Retry(NoBackoff(), 0),
    lambda make, where, timeout: Link(make(), where, timeout),
)


def sync_client(wires: Wires) -> Client:
    """The client for threads without an event loop; its links can be cut by these wires."""
    return Client(
        redis.connection,
        redis.retry.Retry(NoBackoff(), 0),
        lambda make, where, timeout: SyncLink(make, where, timeout, wires),
    )


class Server(ABC):
    """What a config string names. Nothing is connected before the first command."""

    dies_with_us = False
    """Whether it is part of this process."""

    def __init__(self, config: Config, client: Client) -> None:
        self._client = client
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
            "retry": self._client.retry,
            "driver_info": None,
        }


class PlainServer(Server):
    """`redis://host:port/database`, and `rediss://` with TLS."""

    def __init__(self, config: Config, client: Client) -> None:
        super().__init__(config, client)
        ((host, port),) = _hosts(config, DEFAULT_PORT, most=1)
        self._location: dict[str, Any] = {"host": host, "port": port, "db": _database(config)}
        self._is_tls = config.address.scheme == "rediss"
        if self._is_tls:
            self._location |= {option.name: config[option] for option in options.TLS}

    def link(self, timeout: float) -> Commands:
        connections = self._client.connections
        kind = connections.SSLConnection if self._is_tls else connections.Connection
        return self._client.link(
            lambda: kind(**self._location, **self._settings()), self._where, timeout
        )


class SocketServer(Server):
    """`unix:///run/redis.sock`."""

    def __init__(self, config: Config, client: Client) -> None:
        super().__init__(config, client)
        address = config.address
        if address.host or not address.path.strip("/"):
            raise ConfigError("unix:// needs the path of a socket: unix:///run/redis.sock?db=0")
        if len(os.fsencode(address.path)) > MAX_SOCKET_PATH:
            raise ConfigError(
                f"unix:// takes a path of up to {MAX_SOCKET_PATH} bytes: the system allows no more"
            )
        self._path, self._database = address.path, config[options.DATABASE]

    def link(self, timeout: float) -> Commands:
        kind = self._client.connections.UnixDomainSocketConnection
        return self._client.link(
            lambda: kind(path=self._path, db=self._database, **self._settings()),
            self._where,
            timeout,
        )


class SentinelServer(Server):
    """`redis+sentinel://host:port,host:port/service`: the master that the sentinels know of."""

    def __init__(self, config: Config, client: Client) -> None:
        super().__init__(config, client)
        self._sentinels = _hosts(config, SENTINEL_PORT)
        self._service, self._database = _service(config)
        self._sentinel_credentials = credentials_of(
            config[options.SENTINEL_USERNAME], config[options.SENTINEL_PASSWORD]
        )
        # One that is down must not use up the time of a call.
        self._sentinel_timeout = self._timeout / (len(self._sentinels) + 1)

    def link(self, timeout: float) -> Commands:
        kind, make = self._client.connections.Connection, self._client.link

        def make_link(node: Node) -> Commands:
            host, port = node
            return make(
                lambda: kind(host=host, port=port, db=self._database, **self._settings()),
                f"{self._where} ({host}:{port})",
                timeout,
            )

        def make_sentinel_link(node: Node) -> Commands:
            host, port = node
            settings = self._settings() | {"credential_provider": self._sentinel_credentials}
            return make(
                lambda: kind(host=host, port=port, **settings),
                f"sentinel {host}:{port}",
                self._sentinel_timeout,
            )

        return SentinelLink(
            self._sentinels, self._service, make_sentinel_link, make_link, self._where
        )


class FakeServer(Server):
    """A server inside this process, by fakeredis: the whole adapter, for people's tests."""

    dies_with_us = True

    def __init__(self, config: Config, client: Client) -> None:
        super().__init__(config, client)
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
        return self._client.link(client.connection_pool.make_connection, self._where, timeout)


class ClusterServer(Server):
    """`redis+cluster://host:port,host:port`: any of its nodes knows the others."""

    def __init__(self, config: Config, client: Client) -> None:
        super().__init__(config, client)
        if config.address.path.strip("/"):
            raise ConfigError("redis+cluster:// takes no database: a cluster has only one")
        self._nodes = _hosts(config, DEFAULT_PORT)

    def link(self, timeout: float) -> Commands:
        kind, make = self._client.connections.Connection, self._client.link

        def make_link(node: Node) -> Commands:
            host, port = node
            return make(
                lambda: kind(host=host, port=port, **self._settings()),
                f"{self._where} (node {host}:{port})",
                timeout,
            )

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


def server_of(config: Config, client: Client = ASYNC) -> Server:
    """The server that a config string names, reached by a client.

    Raises:
        ConfigError: it names none.
    """
    return _KINDS[config.address.scheme](config, client)


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
