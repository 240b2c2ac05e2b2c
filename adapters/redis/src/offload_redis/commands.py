"""Whatever commands can be sent to: one server, or a cluster of them."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, TypeAlias

from redis.exceptions import NoScriptError

from offload_redis.errors import is_wrong_type, translate
from offload_redis.keys import type_of
from offload_redis.scripts import MEND, Argument, Call

log = logging.getLogger("offload")

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
        replies = await self.run_each(calls, behind=behind, once=once)
        for reply in replies:
            if isinstance(reply, Exception):
                raise translate(reply, self.where, maybe_stored=len(replies) > 1) from reply
        return replies

    async def run_each(
        self,
        calls: Sequence[Call],
        *,
        behind: Command | None = None,
        once: bool = False,
    ) -> list[Any]:
        """Run scripts, as `run` does, and return errors among the replies.

        Raises:
            BackendError: as `execute` does.
        """
        commands = _with([call.by_digest() for call in calls], behind)
        replies = await self.execute(commands, once=once)
        for reply in replies:  # no generator: this is on the way of each call
            if isinstance(reply, Exception):
                break
        else:
            return replies
        if any(isinstance(reply, NoScriptError) for reply in replies):
            # A new server, or a flushed one. Those that ran do nothing when they come again.
            commands = _with([call.by_source() for call in calls], behind)
            replies = await self.execute(commands, once=once)
        step = 1 if behind is None else 2
        for index, call in enumerate(calls):
            place = slice(index * step, (index + 1) * step)
            if is_wrong_type(replies[place.start]) and await self.mend(call.keys) is not None:
                commands = _with([call.by_source()], behind)
                replies[place] = await self.execute(commands, once=once)
        return replies

    async def ask(self, *command: Argument) -> Any:
        """Send one command, and return its reply.

        Raises:
            BackendError: as `execute` does, or the reply is an error.
        """
        (reply,) = await self.execute((command,))
        if is_wrong_type(reply) and await self.mend((str(command[1]),)) is not None:
            (reply,) = await self.execute((command,))
        if isinstance(reply, Exception):
            raise translate(reply, self.where, maybe_stored=False) from reply
        return reply

    async def mend(self, keys: Sequence[str]) -> int | None:
        """Put aside what lies under these keys and isn't of our types; return how many, or None.

        Else one stray key would hold up a queue, or all, for ever.
        """
        call = Call(MEND, tuple(keys), tuple(type_of(key) for key in keys))
        (moved,) = await self.execute((call.by_source(),))
        if isinstance(moved, Exception):
            names = ", ".join(keys)
            log.warning("%s: a stray key among %s can't be put aside: %s", self.where, names, moved)
            return None
        for key, aside in zip(moved[::2], moved[1::2], strict=True):
            message = "%s: the key %s held what isn't Offload's; it was renamed to %s"
            log.error(message, self.where, key.decode(), aside.decode())
        return len(moved) // 2  # none, if another connection was quicker


def _with(commands: list[Command], behind: Command | None) -> list[Command]:
    if behind is None:
        return commands
    return [each for command in commands for each in (command, behind)]
