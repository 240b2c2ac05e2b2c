"""The RabbitMQ backend of Offload. See the README for what it promises."""

from dataclasses import replace
from datetime import timedelta

from offload import Adapter, Claims, Limits, hookimpl
from offload_amqp.driver import AmqpDriver
from offload_amqp.names import LEVELS
from offload_amqp.options import options_of

ADAPTER = Adapter(
    claims=Claims(
        fifo=True,
        durable=True,
        distributed=True,
        dead_letters=True,
        notes={"fifo": "what a stop or a lost connection gives back may change its place"},
    ),
    limits=Limits(
        max_job_bytes=1 << 20,
        max_delay=timedelta(seconds=2**LEVELS - 1),
        lateness=timedelta(milliseconds=50),
        recovery=timedelta(seconds=15),
        reconnect=timedelta(seconds=30),
    ),
    options=options_of("amqp"),
    make=AmqpDriver,
    deviations={"FIFO-3": "what a worker gives back goes to the end of its queue in RabbitMQ"},
)

ADAPTERS = {"amqp": ADAPTER, "amqps": replace(ADAPTER, options=options_of("amqps"))}


@hookimpl
def offload_adapter(scheme: str) -> Adapter | None:
    """The adapter for `amqp://` and `amqps://`."""
    return ADAPTERS.get(scheme)
