"""AMQP 0-9-1 over asyncio: one connection that lives once, its channels, and nothing hidden.

The marshalling is pamqp's, but for the frames that come with every message.
"""

from offload_amqp.wire.channel import Channel
from offload_amqp.wire.connection import SILENT_HEARTBEATS, Connection, connect
from offload_amqp.wire.errors import BlockedError, ClosedError, LostError, WireError
from offload_amqp.wire.messages import Incoming, Outgoing

__all__ = [
    "SILENT_HEARTBEATS",
    "BlockedError",
    "Channel",
    "ClosedError",
    "Connection",
    "Incoming",
    "LostError",
    "Outgoing",
    "WireError",
    "connect",
]
