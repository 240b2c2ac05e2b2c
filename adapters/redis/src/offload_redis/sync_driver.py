"""The driver with a second way in, for threads without an event loop."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from offload import Entry
from offload.config import Config
from offload_redis.driver import RedisDriver
from offload_redis.servers import sync_client
from offload_redis.sync_link import CAN_BLOCK, Wires, finish

END_SECONDS = 1.0
"""A call that was cut has this time to end; one takes no time, but its thread may have to wait."""


class _WayIn:
    """The storing side once more, over one connection that blocks."""

    def __init__(self, config: Config) -> None:
        self._wires = Wires()
        self._turn = threading.Lock()
        self.driver = RedisDriver(config, sync_client(self._wires))
        self._is_open = False

    def enqueue(self, entries: Sequence[Entry]) -> None:
        with self._turn:
            if not self._is_open:
                finish(self.driver.open())
                self._is_open = True
            finish(self.driver.enqueue(entries))

    def close(self) -> None:
        self._wires.cut()
        if self._turn.acquire(timeout=END_SECONDS):
            finish(self.driver.close())
            self._turn.release()


class SyncRedisDriver(RedisDriver):
    """A `RedisDriver` that stores from threads as well."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._way_in: _WayIn | None = None

    def enqueue_sync(self, entries: Sequence[Entry]) -> None:
        way_in = self._way_in
        if way_in is None:
            way_in = self._way_in = _WayIn(self._config)
        way_in.enqueue(entries)
        self._durable = way_in.driver._durable  # noqa: SLF001

    def close_sync(self) -> None:
        way_in, self._way_in = self._way_in, None
        if way_in is not None:
            way_in.close()


def make_driver(config: Config) -> RedisDriver:
    """The driver for what a config string names, with both ways in if there can be two."""
    return SyncRedisDriver(config) if CAN_BLOCK else RedisDriver(config)
