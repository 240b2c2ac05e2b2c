"""A traced driver is what it was, and tells of each call."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from offload import Counts, DeadLetterStore, Entry, Leases, QueueCounts
from offload_conformance.logs import Masked
from offload_conformance.tracing import TRACE, traced
from offload_conformance.wrapping import DRIVER_CALLS, wrapped


class Subscription:
    lease = timedelta(seconds=3)

    async def fetch(self, limit): ...

    def extend(self, deliveries):
        return list(deliveries)


class Driver:
    async def enqueue(self, entries):
        raise OSError("hush refused it")

    async def subscribe(self, queues):
        return Subscription()

    async def counts(self):
        return {"default": QueueCounts()}


@pytest.fixture
def trace(tmp_path, monkeypatch):
    """The lines that were written."""
    monkeypatch.setenv(TRACE, str(tmp_path / "trace"))
    return lambda: [json.loads(line) for line in (tmp_path / "trace").read_text().splitlines()]


async def test_what_it_offers_is_what_it_offered(trace):
    driver = wrapped(Driver(), DRIVER_CALLS, "driver-1", traced())
    assert isinstance(driver, Counts)
    assert not isinstance(driver, DeadLetterStore)
    subscription = await driver.subscribe(["default"])
    assert isinstance(subscription, Leases)
    assert subscription.lease == timedelta(seconds=3)
    assert subscription.extend({1, 2}) == [1, 2]
    assert [line["call"] for line in trace()] == ["subscribe", "extend"]
    assert trace()[1]["arguments"] == ["2 int"]


async def test_a_failure_is_told_and_raised_without_a_secret(trace):
    driver = wrapped(Driver(), DRIVER_CALLS, "driver-1", traced(Masked("redis://user:hush@host")))
    with pytest.raises(OSError, match="hush"):
        await driver.enqueue(entries=[Entry("a", "default", b"body")])
    (line,) = trace()
    assert line["outcome"] == "OSError: *** refused it"
    assert line["arguments"] == ["1 Entry, 4 bytes"]
    assert line["on"] == "driver-1"
