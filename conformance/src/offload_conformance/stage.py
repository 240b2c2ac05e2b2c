"""The kit's own socket: puppets report here, from any process, and wait for their cue."""

from __future__ import annotations

import asyncio
import json
import os
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Any, Self

from offload_conformance.history import History

DEADLINE = float(os.environ.get("OFFLOAD_KIT_DEADLINE", "15"))
"""Seconds after which something that had to happen has not."""


LONGEST = 64 << 20
"""Bytes of the longest report: the args of a job may be in it."""


class TooLateError(AssertionError):
    """Something that had to happen did not, within the deadline."""


class Stage:
    """Where puppets play."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.inquire: Callable[[], Awaitable[None]] | None = None
        """Records what became of the jobs, when something didn't come in time."""
        self._changed = asyncio.Event()
        self._open_gates: set[str] = set()
        self._all_open = False
        self._conversations: set[asyncio.Task[None]] = set()
        self._waiting: defaultdict[str, list[asyncio.StreamWriter]] = defaultdict(list)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=LONGEST)
        host, port = self._server.sockets[0].getsockname()[:2]
        self.address = f"{host}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.open_all()
        self._server.close()
        # What was sent before the senders left is read to its end.
        await asyncio.wait_for(asyncio.gather(*self._conversations), DEADLINE)

    def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        conversation = asyncio.create_task(self._converse(reader, writer))
        self._conversations.add(conversation)
        conversation.add_done_callback(self._conversations.discard)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                message: dict[str, Any] = json.loads(line)
                if (gate := message.pop("gate", None)) is not None:
                    self._wait_at(gate, writer)
                else:
                    self.history.add(message.pop("event"), **message)
                self._changed.set()
        except ConnectionError:
            pass  # a process that the kit killed
        finally:
            writer.close()

    def _wait_at(self, gate: str, writer: asyncio.StreamWriter) -> None:
        if self._all_open or gate in self._open_gates:
            writer.write(b"go\n")
        else:
            self._waiting[gate].append(writer)

    def open(self, gate: str) -> None:
        """Let all who wait at this gate go on, and all who come later."""
        self._open_gates.add(gate)
        for writer in self._waiting.pop(gate, []):
            writer.write(b"go\n")

    def open_all(self) -> None:
        """Let everybody go on, from now on."""
        self._all_open = True
        for gate in list(self._waiting):
            self.open(gate)

    def poke(self) -> None:
        """Let `until` look again: the history has grown by other means."""
        self._changed.set()

    async def until(self, what: str, holds: Callable[[], bool], deadline: float = DEADLINE) -> None:
        """Return as soon as something holds.

        Raises:
            TooLateError: it didn't hold within the deadline. `what` is for whoever reads that.
        """
        try:
            async with asyncio.timeout(deadline):
                while not holds():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            self.history.add("too_late", waited_for=what, seconds=deadline)
            if self.inquire is not None:
                await self.inquire()
            raise TooLateError(f"expected {what} within {deadline:g} s") from None
