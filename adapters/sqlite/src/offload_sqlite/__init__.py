"""The SQLite backend of Offload. See the README for what it promises."""

from datetime import timedelta

from offload import Adapter, Claims, Limits, hookimpl
from offload_sqlite.driver import SqliteDriver
from offload_sqlite.options import OPTIONS, database_path

ADAPTER = Adapter(
    claims=Claims(
        fifo=True,
        durable=True,
        distributed=True,
        dead_letters=True,
        notes={
            "durable": "killed processes; with synchronous=full power loss too",
            "distributed": "one host",
        },
    ),
    limits=Limits(
        max_job_bytes=1 << 20,
        max_delay=timedelta(days=36_500),
        lateness=timedelta(milliseconds=50),
        recovery=timedelta(seconds=5),
    ),
    options=OPTIONS,
    file=database_path,
    make=SqliteDriver,
)


@hookimpl
def offload_adapter(scheme: str) -> Adapter | None:
    """The adapter for `sqlite:///path`."""
    return ADAPTER if scheme == "sqlite" else None
