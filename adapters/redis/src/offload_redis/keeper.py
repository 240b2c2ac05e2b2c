"""Leases, extended by blocking code, from a thread that no handler can hold up."""

from __future__ import annotations

from collections.abc import Collection

from redis.exceptions import NoScriptError, RedisError

from offload_redis.errors import translate
from offload_redis.scripts import Call
from offload_redis.servers import Executes, Server


class Keeper:
    """Runs scripts on a connection of its own."""

    def __init__(self, server: Server, where: str) -> None:
        self._server = server
        self._where = where
        self._client: Executes | None = None

    def run(self, calls: Collection[Call]) -> list[int]:
        """Run scripts that answer with a number.

        Raises:
            BackendError: the server is away, or refuses.
        """
        if self._client is None:
            self._client = self._server.blocking_client()
        try:
            return [self._run(self._client, call) for call in calls]
        except (RedisError, OSError) as error:
            raise translate(error, self._where, maybe_stored=True) from error

    @staticmethod
    def _run(client: Executes, call: Call) -> int:
        try:
            return int(client.execute_command(*call.by_digest()))
        except NoScriptError:
            return int(client.execute_command(*call.by_source()))

    def close(self) -> None:
        """Disconnect."""
        if self._client is not None:
            self._client.close()
            self._client = None
