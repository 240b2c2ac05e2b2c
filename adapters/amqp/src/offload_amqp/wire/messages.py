"""A message, as it goes out and as it comes in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from offload_amqp.wire.channel import Channel

Headers = dict[str, Any]


@dataclass(slots=True)
class Outgoing:
    """A persistent message, to be published as mandatory."""

    exchange: str
    key: str
    id: str
    headers: Headers
    body: bytes


@dataclass(slots=True)
class Incoming:
    """A message that the broker has handed out, and wants settled."""

    channel: Channel
    tag: int
    """By which it is settled, on this channel alone."""
    is_redelivered: bool
    id: str
    """The publisher's message id, or nothing."""
    headers: Headers
    """Empty if they can't be read."""
    body: bytes
