"""A master that sentinels watch: whoever they say it is now."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from redis.exceptions import ReadOnlyError

from offload import BackendError, BackendUnavailableError
from offload_redis.cluster import Node
from offload_redis.commands import Command, Commands


class SentinelLink(Commands):
    """A link to the master, made anew when it went away or is the master no more."""

    def __init__(
        self,
        sentinels: Sequence[Node],
        service: str,
        make_sentinel_link: Callable[[Node], Commands],
        make_link: Callable[[Node], Commands],
        where: str,
    ) -> None:
        super().__init__(where)
        self._sentinels = sentinels
        self._service = service
        self._make_sentinel_link = make_sentinel_link
        self._make_link = make_link
        self._link: Commands | None = None

    async def execute(self, commands: Sequence[Command], *, once: bool = False) -> list[Any]:
        if self._link is not None:
            try:
                replies = await self._link.execute(commands, once=once)
            except BackendUnavailableError:
                await self.drop()
                if once:
                    raise
            else:
                if not any(isinstance(reply, ReadOnlyError) for reply in replies):
                    return replies
                await self.drop()
        self._link = self._make_link(await self._find_master())
        return await self._link.execute(commands, once=once)

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
