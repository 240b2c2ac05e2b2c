"""Whatever commands can be sent to: one server, or a cluster of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, TypeAlias

from redis.exceptions import NoScriptError

from offload_redis.errors import translate
from offload_redis.scripts import Argument, Call

Command: TypeAlias = Sequence[Argument]


class Commands(ABC):
    """Sends commands and scripts, each batch within a deadline."""

    def __init__(self, where: str) -> None:
        self.where = where

    @abstractmethod
    async def execute(self, commands: Sequence[Command], *, once: bool = False) -> list[Any]:
        """Send commands, and return their replies; those that are errors, too.

        On a connection that breaks, all are sent again, unless it must be only `once`.

        Raises:
            BackendError: the server can't be reached, or went away; `maybe_stored` if any may
                have run.
        """

    @abstractmethod
    async def drop(self) -> None:
        """Disconnect; the next command connects anew."""

    async def run(
        self,
        calls: Sequence[Call],
        *,
        behind: Command | None = None,
        once: bool = False,
    ) -> list[Any]:
        """Run scripts.

        With a command to send right `behind` each one, on its connection, there
        are twice as many replies.

        Raises:
            BackendError: as `execute` does, or the first reply that is an error.
        """
        commands = _with([call.by_digest() for call in calls], behind)
        replies = await self.execute(commands, once=once)
        if any(isinstance(reply, NoScriptError) for reply in replies):
            # A new server, or a flushed one. Those that ran do nothing when they come again.
            commands = _with([call.by_source() for call in calls], behind)
            replies = await self.execute(commands, once=once)
        for reply in replies:
            if isinstance(reply, Exception):
                raise translate(reply, self.where, maybe_stored=len(replies) > 1) from reply
        return replies

    async def ask(self, *command: Argument) -> Any:
        """Send one command, and return its reply.

        Raises:
            BackendError: as `execute` does, or the reply is an error.
        """
        (reply,) = await self.execute((command,))
        if isinstance(reply, Exception):
            raise translate(reply, self.where, maybe_stored=False) from reply
        return reply


def _with(commands: list[Command], behind: Command | None) -> list[Command]:
    if behind is None:
        return commands
    return [each for command in commands for each in (command, behind)]
