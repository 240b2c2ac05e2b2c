"""One connection with one channel, made anew whenever it is needed and gone."""

from __future__ import annotations

import asyncio

from offload import BackendError, BackendUnavailableError
from offload.config import Address, Config
from offload_amqp.errors import translated
from offload_amqp.options import LEASE, TIMEOUT
from offload_amqp.tls import explanation, ssl_context
from offload_amqp.wire import SILENT_HEARTBEATS, Channel, Connection, LostError, connect

DEFAULT_PORTS = {"amqp": 5672, "amqps": 5671}
CLOSE_SECONDS = 1.0
"""How long the broker may take to answer a farewell."""

READING_TURNS = 5
"""Turns of the event loop in which what has arrived is read: a few heartbeats, then the end."""


def vhost_of(address: Address) -> str:
    """The vhost that an address names."""
    return address.path.removeprefix("/") or "/"


class Broker:
    """Where the broker is, and how to get in: of several hosts, the first that answers."""

    def __init__(self, config: Config) -> None:
        self.where = str(config)
        self.timeout = config[TIMEOUT].total_seconds()
        self.heartbeat = max(1, round(config[LEASE].total_seconds() / SILENT_HEARTBEATS))
        self._config = config
        self._tls = ssl_context(config)
        address = config.address
        port = DEFAULT_PORTS[address.scheme]
        self._hosts = [(host or "localhost", own or port) for host, own in address.hosts] or [
            ("localhost", port)
        ]
        self._user = address.username or "guest"
        self._password = "guest" if address.password is None else address.password
        self._vhost = vhost_of(address)

    async def connect(self) -> Connection:
        """Connect.

        Raises:
            BackendError: no host lets us in.
        """
        errors: list[BackendError] = []
        for host, port in self._hosts:
            try:
                async with translated(self.where, self.timeout):
                    return await connect(
                        host,
                        port,
                        user=self._user,
                        password=self._password,
                        vhost=self._vhost,
                        heartbeat=self.heartbeat,
                        context=self._tls,
                    )
            except BackendError as error:
                errors.append(self._explained(error))
        raise errors[0]

    def _explained(self, error: BackendError) -> BackendError:
        cause = error.__cause__ or error
        text = explanation(self._config, cause)
        if text is None:
            return error
        explained = BackendUnavailableError(f"{self.where} is away: {text}")
        explained.__cause__ = cause
        return explained


class Line:
    """A connection with one channel, for one event loop."""

    def __init__(self, broker: Broker, *, confirms: bool) -> None:
        self.broker = broker
        self._confirms = confirms
        self._connection: Connection | None = None
        self._channel: Channel | None = None
        self._opening = asyncio.Lock()
        self.declared: set[tuple[str, int | None]] = set()
        """Queues, and levels of the ladder, that were declared on this connection."""

    async def channel(self) -> Channel:
        """The channel, open.

        Raises:
            BackendError: the broker is away, or doesn't let us in.
        """
        async with self._opening:
            if self._connection is not None and self._connection.is_silent:
                await self._hear(self._connection)
            if self._channel is None or self._channel.error is not None:
                self._channel = await self._open()
            return self._channel

    async def _hear(self, connection: Connection) -> None:
        """Give up a connection that ended while something blocked the event loop.

        What is sent on it would be lost, and nobody could say whether it arrived.
        """
        for _ in range(READING_TURNS):
            await asyncio.sleep(0)
        if connection.is_silent:
            self.drop()

    async def _open(self) -> Channel:
        if self._connection is None or self._connection.error is not None:
            self._connection = await self.broker.connect()
            self.declared.clear()
        try:
            async with translated(self.broker.where, self.broker.timeout):
                return await self._connection.open_channel(confirms=self._confirms)
        except BaseException:
            self.drop()
            raise

    def drop(self) -> None:
        """Disconnect at once, from a broker that no longer answers as it should."""
        if self._connection is not None:
            self._connection.abort(LostError("it was given up"))

    async def close(self) -> None:
        """Disconnect."""
        connection, self._connection, self._channel = self._connection, None, None
        if connection is not None:
            await connection.close(CLOSE_SECONDS)
