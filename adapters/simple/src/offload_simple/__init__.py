"""The in-process backend of Offload. See the README for what it promises."""

from datetime import timedelta

from offload import Adapter, Claims, Limits, hookimpl
from offload_simple.driver import SimpleDriver

ADAPTER = Adapter(
    claims=Claims(
        fifo=True,
        durable=False,
        distributed=False,
        dead_letters=True,
        notes={"dead_letters": "in memory"},
    ),
    limits=Limits(
        max_job_bytes=1 << 20,
        max_delay=timedelta(days=36_500),
        lateness=timedelta(milliseconds=20),
    ),
    make=SimpleDriver,
)


@hookimpl
def offload_adapter(scheme: str) -> Adapter | None:
    """The adapter for `simple://`."""
    return ADAPTER if scheme == "simple" else None
