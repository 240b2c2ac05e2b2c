"""The Redis backend of Offload. See the README for what it promises."""

from dataclasses import replace
from datetime import timedelta

from offload import Adapter, Claims, Limits, hookimpl
from offload_redis import options
from offload_redis.driver import RedisDriver
from offload_redis.sync_driver import make_driver

LIMITS = Limits(
    max_job_bytes=1 << 20,
    max_delay=timedelta(days=36_500),
    lateness=timedelta(milliseconds=50),
    recovery=timedelta(seconds=20),
    reconnect=timedelta(seconds=10),
)

CLAIMS = Claims(
    fifo=True,
    durable=True,
    distributed=True,
    dead_letters=True,
    notes={"durable": "with appendonly yes; a failover can lose what no replica had yet"},
)

REAL = Adapter(claims=CLAIMS, limits=LIMITS, options=options.COMMON, make=make_driver)

ADAPTERS = {
    "redis": REAL,
    "rediss": replace(REAL, options=(*options.COMMON, *options.TLS)),
    "unix": replace(REAL, options=(*options.COMMON, options.DATABASE)),
    "redis+sentinel": replace(REAL, options=(*options.COMMON, *options.SENTINEL)),
    "redis+cluster": replace(REAL, make=RedisDriver),
    "redis+fake": replace(
        REAL,
        claims=replace(CLAIMS, durable=False, distributed=False, notes={}),
        limits=replace(LIMITS, recovery=None, reconnect=None),
        make=RedisDriver,
    ),
}


@hookimpl
def offload_adapter(scheme: str) -> Adapter | None:
    """The adapter for one of our schemes."""
    return ADAPTERS.get(scheme)
