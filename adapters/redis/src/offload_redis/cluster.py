"""A cluster: each command goes to the node that has the slot of its key."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from redis.crc import key_slot
from redis.exceptions import AskError, ClusterDownError, MovedError, TryAgainError

from offload import BackendError, BackendUnavailableError
from offload_redis.commands import Command, Commands
from offload_redis.errors import translate

Node: TypeAlias = tuple[str, int]

ROUNDS = 10
"""How often a command is sent that finds its slot elsewhere, before that is an error."""
PAUSE_SECONDS = 0.1
"""Between these: who moves a slot tells the nodes one after the other."""

_ELSEWHERE = (MovedError, TryAgainError, ClusterDownError)


class ClusterLink(Commands):
    """A link to every node that is needed."""

    def __init__(
        self,
        seeds: Sequence[Node],
        make_link: Callable[[Node], Commands],
        where: str,
        timeout: float,
    ) -> None:
        super().__init__(where)
        self._timeout = timeout
        self._seeds = seeds
        self._make_link = make_link
        self._links: dict[Node, Commands] = {}
        self._owners: list[tuple[int, int, Node]] = []

    def _link(self, node: Node) -> Commands:
        if node not in self._links:
            self._links[node] = self._make_link(node)
        return self._links[node]

    async def execute(self, commands: Sequence[Command], *, once: bool = False) -> list[Any]:
        try:
            async with asyncio.timeout(self._timeout):
                return await self._execute(commands, once=once)
        except TimeoutError as error:
            raise translate(error, self.where, maybe_stored=True) from error

    async def _execute(self, commands: Sequence[Command], *, once: bool) -> list[Any]:
        replies: list[Any] = [None] * len(commands)
        left = list(range(len(commands)))
        for turn in range(ROUNDS):
            if turn:
                await asyncio.sleep(PAUSE_SECONDS)
            if turn or not self._owners:
                await self._learn_owners()
            is_last = turn == ROUNDS - 1
            left = await self._round(commands, left, replies, is_last=is_last, once=once)
            if not left:
                break
        return replies

    async def _round(
        self,
        commands: Sequence[Command],
        indices: Sequence[int],
        replies: list[Any],
        *,
        is_last: bool,
        once: bool,
    ) -> list[int]:
        """Send these, fill in their replies, and return those that must be sent again."""
        by_node: dict[Node, list[int]] = defaultdict(list)
        node = self._owners[0][2]
        for index in indices:
            # A command without a key follows the one before it.
            node = self._owner(commands[index]) or node
            by_node[node].append(index)
        answers = await asyncio.gather(
            *(
                self._link(node).execute([commands[index] for index in group], once=once)
                for node, group in by_node.items()
            ),
            return_exceptions=True,
        )
        again: list[int] = []
        for group, answer in zip(by_node.values(), answers, strict=True):
            if isinstance(answer, BaseException):
                if once or is_last or not isinstance(answer, BackendUnavailableError):
                    raise answer
                again += group
                continue
            for index, reply in zip(group, answer, strict=True):
                if isinstance(reply, AskError):
                    reply = await self._ask_there(reply, commands[index])
                replies[index] = reply
                follows = again and again[-1] == index - 1 and _key_of(commands[index]) is None
                if follows or isinstance(reply, _ELSEWHERE):
                    again.append(index)
        return sorted(again)

    async def _ask_there(self, elsewhere: AskError, command: Command) -> Any:
        link = self._link((elsewhere.host, elsewhere.port))
        return (await link.execute((("ASKING",), command)))[1]

    def _owner(self, command: Command) -> Node | None:
        key = _key_of(command)
        if key is None:
            return None
        slot = key_slot(key)
        return next((node for first, last, node in self._owners if first <= slot <= last), None)

    async def _learn_owners(self) -> None:
        known = [node for _, _, node in self._owners]
        error: BackendError | None = None
        for node in dict.fromkeys((*known, *self._seeds)):
            try:
                slots = await self._link(node).ask("CLUSTER", "SLOTS")
            except BackendUnavailableError as raised:
                error = raised
                continue
            if slots:
                self._owners = [
                    # A node that doesn't know its own name is where we asked it.
                    (first, last, ((master[0] or b"").decode() or node[0], master[1]))
                    for first, last, master, *_ in slots
                ]
                return
            error = BackendUnavailableError(f"{self.where}: no node of the cluster has any slot")
        raise error or BackendUnavailableError(f"{self.where}: no node is known")

    async def drop(self) -> None:
        await asyncio.gather(*(link.drop() for link in self._links.values()))


def _key_of(command: Command) -> bytes | None:
    """The first key of a command, if it has one: behind a script's number of keys, or first."""
    if command[0] in ("PING", "INFO", "WAIT"):
        return None
    key = command[3] if command[0] in ("EVALSHA", "EVAL") else command[1]
    return key if isinstance(key, bytes) else str(key).encode()
