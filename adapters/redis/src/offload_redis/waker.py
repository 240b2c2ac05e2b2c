"""How an idle worker learns of new work: it blocks on a marker, which says nothing but "look"."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Sequence

from offload import BackendError, BackendUnavailableError
from offload_redis.commands import Commands

log = logging.getLogger("offload")

BLOCK_SECONDS = 5
"""How long the server lets one call wait."""
ANSWER_SECONDS = BLOCK_SECONDS + 2.0
"""After so long without an answer the connection is taken for lost."""
HANG_UP_SECONDS = 0.3
"""How long the server gets to end the calls; then their connections are closed."""
PAUSE_SECONDS = 0.2
"""Between tries to connect."""
REFUSED_SECONDS = 30.0
"""Until the next try when the server refuses to let us wait."""


class Waker:
    """Waits for the markers of some queues, on connections of its own.

    No job ever passes here, so a call can be given up at any time. A marker
    that arrives when nobody waits any more is meant for another worker: it is
    put back.
    """

    def __init__(self, places: Sequence[tuple[Commands, Sequence[str]]], other: Commands) -> None:
        """One connection for each group of keys that a server can watch together.

        `other` is one that nothing ever blocks.
        """
        self._other = other
        # By its last key each call can be ended from here: to hang up might lose a marker.
        token = secrets.token_hex(8)
        self._places = [(commands, (*keys, f"{keys[0]}:{token}")) for commands, keys in places]
        self._calls: dict[str, asyncio.Task[None]] = {}
        self._waiting = False
        self._has_complained = False

    async def wait(self, seconds: float) -> None:
        """Return when a marker came, or after so many seconds."""
        for commands, keys in self._places:
            call = self._calls.get(keys[-1])
            if call is None or call.done():
                self._calls[keys[-1]] = asyncio.create_task(
                    self._block(commands, keys), name="offload-redis-wake"
                )
        self._waiting = True
        try:
            await asyncio.wait(
                self._calls.values(), timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            self._waiting = False

    async def _block(self, commands: Commands, keys: Sequence[str]) -> None:
        while True:
            try:
                marker = await commands.ask("BZPOPMIN", *keys, BLOCK_SECONDS)
            except BackendUnavailableError:
                await asyncio.sleep(PAUSE_SECONDS)
                continue
            except Exception as error:
                await self._refused(keys, error)
                continue
            if marker is None:
                continue
            key = marker[0].decode()
            if not self._waiting and key != keys[-1]:
                with contextlib.suppress(BackendError):  # the others look before long
                    await self._other.ask("ZADD", key, 0, "wake")
            return

    async def _refused(self, keys: Sequence[str], error: Exception) -> None:
        """Go without markers for a while, unless it was for a stray key."""
        with contextlib.suppress(Exception):
            if await self._other.mend(keys[:-1]):
                return
        if not self._has_complained:
            self._has_complained = True
            log.warning("jobs may begin up to a second late, since waiting fails: %s", error)
        await asyncio.sleep(REFUSED_SECONDS)

    async def close(self) -> None:
        """Stop waiting, and disconnect."""
        loop = asyncio.get_running_loop()
        # Those of a loop that was closed are over, whatever they say.
        pending = {
            key: call
            for key, call in self._calls.items()
            if not call.done() and call.get_loop() is loop
        }
        with contextlib.suppress(BackendError, TimeoutError):
            async with asyncio.timeout(HANG_UP_SECONDS):
                for key in pending:
                    await self._other.execute((("ZADD", key, 0, "end"), ("EXPIRE", key, 60)))
                if pending:
                    await asyncio.wait(pending.values())
                    await self._other.execute([("DEL", key) for key in pending])
        for call in pending.values():
            call.cancel()
        if pending:
            await asyncio.wait(pending.values())
        for commands, _ in self._places:
            await commands.drop()
