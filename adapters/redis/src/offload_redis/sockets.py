"""The socket under a connection: forked children let go of it, and it closes without its loop."""

from __future__ import annotations

import contextlib
from typing import Any

from offload.forking import close_in_child, keep_in_child


class HeldSocket:
    """The socket of a connection of redis-py, from connecting to disconnecting."""

    def __init__(self, connection: Any) -> None:
        # redis-py has no public way to it; that of fakeredis has none.
        writer = getattr(connection, "_writer", None)
        self._transport: Any = getattr(writer, "transport", None)
        transport = self._transport
        socket = transport and transport.get_extra_info("socket")
        self._descriptor: int = -1 if socket is None else socket.fileno()
        if self._descriptor >= 0:
            close_in_child(self._descriptor)

    def let_go(self, *, loop_runs: bool) -> None:
        """Close it; by itself, if the loop that would do it is gone."""
        if self._descriptor >= 0:
            keep_in_child(self._descriptor)
        with contextlib.suppress(Exception):
            if loop_runs:
                if self._transport is not None:
                    self._transport.abort()  # TLS would wait for the server to close
            else:
                _close_without_loop(self._transport)


def _close_without_loop(transport: Any) -> None:
    """Do what asyncio would do on the next turn of the loop, and else only the collector does.

    uvloop closes its own with the loop; to touch them later makes others hang.
    """
    tls = getattr(transport, "_ssl_protocol", None)
    under = getattr(tls, "_transport", transport)
    under._call_connection_lost(None)  # noqa: SLF001
