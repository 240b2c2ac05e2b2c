"""The socket under a connection: forked children let go of it, and it closes without its loop."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from offload.forking import close_in_child, keep_in_child


class HeldSocket:
    """The socket of a connection of redis-py, from connecting to disconnecting."""

    def __init__(self, connection: Any) -> None:
        # redis-py has no public way to it; that of fakeredis has none.
        writer = getattr(connection, "_writer", None)
        self._transport: asyncio.Transport | None = getattr(writer, "transport", None)
        transport = self._transport
        self._socket: Any = transport and transport.get_extra_info("socket")
        self._descriptor: int = -1 if self._socket is None else self._socket.fileno()
        if self._descriptor >= 0:
            close_in_child(self._descriptor)

    def let_go(self, *, loop_runs: bool) -> None:
        """Close it; by itself, if the loop that would do it is gone."""
        if self._descriptor >= 0:
            keep_in_child(self._descriptor)
        if self._transport is not None:
            with contextlib.suppress(Exception):  # "Event loop is closed", and so on
                self._transport.abort()  # TLS would wait for the server's farewell
        if not loop_runs:
            # asyncio closes it on the next turn of the loop, or when the collector finds it.
            with contextlib.suppress(Exception):
                self._socket._sock.close()  # noqa: SLF001
