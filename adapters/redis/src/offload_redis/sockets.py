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
        socket = transport and transport.get_extra_info("socket")
        self._descriptor: int = -1 if socket is None else socket.fileno()
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
            # What asyncio would do on the next turn of the loop. Without it the socket is open
            # until the collector finds it. uvloop closes its own with the loop.
            tls = getattr(self._transport, "_ssl_protocol", None)
            under: Any = getattr(tls, "_transport", self._transport)
            with contextlib.suppress(Exception):
                under._call_connection_lost(None)  # noqa: SLF001
