"""A master that sentinels watch: whoever they say it is now."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from redis.exceptions import ReadOnlyError
from redis.sentinel import Sentinel

from offload import BackendError, BackendUnavailableError
from offload_redis.cluster import Node
from offload_redis.commands import Command, Commands
from offload_redis.link import Link


class SentinelLink(Commands):
    """A link to the master, made anew when it went away or is the master no more."""

    def __init__(
        self,
        sentinels: Sequence[Node],
        service: str,
        make_sentinel_link: Callable[[Node], Link],
        make_link: Callable[[Node], Link],
        where: str,
    ) -> None:
        super().__init__(where)
        self._sentinels = sentinels
        self._service = service
        self._make_sentinel_link = make_sentinel_link
        self._make_link = make_link
        self._link: Link | None = None

    async def execute(self, commands: Sequence[Command]) -> list[Any]:
        if self._link is not None:
            try:
                replies = await self._link.execute(commands)
            except BackendUnavailableError:
                await self.drop()
            else:
                if not any(isinstance(reply, ReadOnlyError) for reply in replies):
                    return replies
                await self.drop()
        self._link = self._make_link(await self._find_master())
        return await self._link.execute(commands)

    async def _find_master(self) -> Node:
        reason: object = "none is named"
        for node in self._sentinels:
            link = self._make_sentinel_link(node)
            try:
                found = await link.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service)
            except BackendError as error:
                reason = error
            else:
                if found:
                    return found[0].decode(), int(found[1])
                reason = f"{node[0]}:{node[1]} knows no service {self._service!r}"
            finally:
                await link.drop()
        raise BackendUnavailableError(f"{self.where}: no sentinel names a master: {reason}")

    async def drop(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            await link.drop()


class SentinelClient:
    """The same for code without an event loop."""

    def __init__(
        self,
        sentinels: Sequence[Node],
        service: str,
        sentinel_settings: dict[str, Any],
        settings: dict[str, Any],
    ) -> None:
        sentinel: Any = Sentinel(  # type: ignore[no-untyped-call]
            list(sentinels), sentinel_kwargs=sentinel_settings
        )
        self._sentinels = sentinel.sentinels
        self._master: Any = sentinel.master_for(service, **settings)

    def execute_command(self, *args: Any) -> Any:
        """Send one command to the master, and return its reply."""
        return self._master.execute_command(*args)

    def close(self) -> None:
        """Disconnect."""
        self._master.close()
        for sentinel in self._sentinels:
            sentinel.close()
