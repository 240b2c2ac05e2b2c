"""How a connection, or a channel, comes to its end."""

from __future__ import annotations


class WireError(Exception):
    """A connection or a channel can't do what was asked."""


class LostError(WireError):
    """The connection is gone: cut, silent for too long, or closed by us."""


class ClosedError(WireError):
    """The broker has closed the channel or the connection, and says why."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        """AMQP's reply code, such as 404."""
        self.text = text


class BlockedError(WireError):
    """The broker takes no messages now: it is short of memory, or of disk."""
