"""The options of an AMQP config string, besides those that every worker has."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from offload.config import Option, duration, one_of

QUEUE_TYPE = Option("queue_type", "quorum", one_of("quorum", "classic"))
"""What the queues are, for ever after they were declared first."""
DECLARE = Option("declare", "true", one_of("true", "false"))
"""Whether queues are declared when they are missing; false where an operator declares them."""
HEARTBEAT = Option(
    "heartbeat", timedelta(seconds=5), duration(timedelta(seconds=1), timedelta(minutes=10))
)
"""How often either side must be heard of; after twice that a worker is taken for dead."""
TIMEOUT = Option(
    "timeout", timedelta(seconds=10), duration(timedelta(milliseconds=100), timedelta(minutes=5))
)
"""How long the broker may take for any one call."""

OPTIONS: tuple[Option[Any], ...] = (QUEUE_TYPE, DECLARE, HEARTBEAT, TIMEOUT)
