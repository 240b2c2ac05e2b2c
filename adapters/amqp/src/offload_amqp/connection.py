"""One connection with one channel, made anew whenever it is needed and gone."""

from __future__ import annotations

import asyncio
import contextlib
from typing import cast

import aiormq
from aiormq import Channel, Connection
from yarl import URL

from offload import BackendError, BackendUnavailableError
from offload.config import Config
from offload_amqp.errors import FAILURES, translated
from offload_amqp.options import HEARTBEAT, TIMEOUT

DEFAULT_PORTS = {"amqp": 5672, "amqps": 5671}
UNBLOCK_SECONDS = 0.05
"""How long a broker that has blocked us may take to say otherwise, before a call is refused."""


class Broker:
    """Where the broker is, and how to get in: of several hosts, the first that answers."""

    def __init__(self, config: Config) -> None:
        self.where = str(config)
        self.timeout = config[TIMEOUT].total_seconds()
        self.heartbeat = config[HEARTBEAT].total_seconds()
        address = config.address
        default = DEFAULT_PORTS[address.scheme]
        self._urls = [
            URL.build(
                scheme=address.scheme,
                user=address.username or "guest",
                password="guest" if address.password is None else address.password,
                host=host or "localhost",
                port=port or default,
                path=address.path if address.path not in ("", "/") else "//",
                query={"heartbeat": str(max(1, round(self.heartbeat)))},
            )
            for host, port in address.hosts or (("localhost", None),)
        ]

    async def connect(self) -> Connection:
        """Connect.

        Raises:
            BackendError: no host lets us in.
        """
        errors: list[BackendError] = []
        for url in self._urls:
            try:
                async with translated(self.where, self.timeout):
                    return await aiormq.connect(url)
            except BackendError as error:
                errors.append(error)
        raise errors[0]


class Line:
    """A connection with one channel, for one event loop."""

    def __init__(self, broker: Broker, *, confirms: bool) -> None:
        self.broker = broker
        self._confirms = confirms
        self._connection: Connection | None = None
        self._channel: Channel | None = None
        self._opening = asyncio.Lock()
        self.declared: set[str] = set()
        """What was declared on this connection."""

    async def channel(self) -> Channel:
        """The channel, open.

        Raises:
            BackendError: the broker is away, or lets us not in, or has blocked us.
        """
        async with self._opening:
            if self._channel is None or self._channel.is_closed:
                await self._open()
            connection, channel = self._connection, self._channel
        if connection is None or channel is None:
            raise BackendUnavailableError(f"{self.broker.where} is away: it was disconnected")
        if await self.is_blocked(UNBLOCK_SECONDS):
            raise self.blocked_error()
        return channel

    async def is_blocked(self, seconds: float = 0.0) -> bool:
        """Whether the broker takes nothing from us, and doesn't within so many seconds."""
        if self._connection is None:
            return False
        try:
            async with asyncio.timeout(seconds):
                await self._connection.ready()
        except TimeoutError:
            return True
        return False

    def blocked_error(self, *, maybe_stored: bool = False) -> BackendUnavailableError:
        """The error for that."""
        return BackendUnavailableError(
            f"{self.broker.where} accepts nothing now: it is short of memory, or of disk",
            maybe_stored=maybe_stored,
        )

    async def _open(self) -> None:
        if self._connection is None or self._connection.is_closed:
            self._connection = await self.broker.connect()
            self.declared.clear()
        try:
            async with translated(self.broker.where, self.broker.timeout):
                opened = await self._connection.channel(publisher_confirms=self._confirms)
        except BaseException:
            await self.close()
            raise
        self._channel = cast(Channel, opened)

    async def close(self) -> None:
        """Disconnect."""
        connection, self._connection, self._channel = self._connection, None, None
        if connection is not None:
            with contextlib.suppress(*FAILURES, RuntimeError):
                await connection.close(timeout=self.broker.timeout / 10)
