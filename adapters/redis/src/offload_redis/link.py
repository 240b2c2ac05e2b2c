"""One connection to one server, on which one batch of commands is under way at a time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ResponseError

from offload_redis.commands import Command, Commands
from offload_redis.errors import bare, translate
from offload_redis.sockets import HeldSocket


def _find_packer() -> Callable[[Any], bytes] | None:
    try:
        from hiredis import pack_command  # an extra; redis-py takes it for its blocking client only
    except ImportError:
        return None
    return pack_command


_pack = _find_packer()


class Link(Commands):
    """Sends commands and reads what they bring, with a deadline, and connects when it must.

    redis-py's own client would do as well, but retries in silence for longer
    than a perform may take, and can't tell what was sent from what wasn't.
    """

    def __init__(self, connection: AbstractConnection, where: str, timeout: float) -> None:
        super().__init__(where)
        self._connection = connection
        self._timeout = timeout
        self._turn = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._held: HeldSocket | None = None

    async def execute(self, commands: Sequence[Command], *, once: bool = False) -> list[Any]:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            await self._move_to(loop)
        deadline = loop.time() + self._timeout
        sent = False
        turn = self._turn
        if turn.locked():
            await self._wait_for_turn(deadline)
        else:
            await turn.acquire()
        try:
            async with asyncio.timeout_at(deadline):
                if self._connection.is_connected:
                    sent = True
                    try:
                        return await self._exchange(commands)
                    except Exception:
                        if once or _running_loop() is None:
                            raise
                        # It may have been dead for long: only now is it noticed.
                        await self.drop()
                await self._connection.connect()  # type: ignore[no-untyped-call]
                self._held = HeldSocket(self._connection)
                sent = True
                return await self._exchange(commands)
        except BaseException as error:
            if _running_loop() is None:
                # The loop is gone, and this is thrown away: what redis-py says of that is no error.
                raise GeneratorExit from None
            # Whatever is still to come on it must never be taken for another's reply.
            await self.drop()
            if isinstance(error, Exception) or _is_not_ours(error):
                raise translate(error, self.where, maybe_stored=sent) from bare(error)
            raise
        finally:
            turn.release()

    async def _wait_for_turn(self, deadline: float) -> None:
        """Those before us may use up all the time, but no more than that."""
        try:
            async with asyncio.timeout_at(deadline):
                await self._turn.acquire()
        except TimeoutError as error:
            raise translate(error, self.where, maybe_stored=False) from None

    async def _exchange(self, commands: Sequence[Command]) -> list[Any]:
        connection = self._connection
        await connection.send_packed_command(
            [_pack(tuple(command)) for command in commands]
            if _pack
            else connection.pack_commands(commands)
        )
        replies: list[Any] = []
        for _ in commands:
            try:
                replies.append(await connection.read_response(disable_decoding=True))
            except ResponseError as error:
                replies.append(error)
        return replies

    async def _move_to(self, loop: asyncio.AbstractEventLoop) -> None:
        await self.drop()
        self._turn = asyncio.Lock()
        self._loop = loop

    async def drop(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            held.let_go(loop_runs=self._loop is _running_loop())
        # On the connection of a loop that was closed it says so, and disconnects all the same.
        with contextlib.suppress(Exception):
            await self._connection.disconnect(nowait=True)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _is_not_ours(error: BaseException) -> bool:
    """Whether it is a cancellation that nobody asked of this task: the client's own, then."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and not task.cancelling()
