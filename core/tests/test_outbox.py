"""Performs that happen together travel together, and an idle one isn't delayed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from offload.driver import Entry
from offload.engine.calls import Calls
from offload.engine.outbox import MAX_BATCH, Outbox


def entry(number: int) -> Entry:
    return Entry(str(number), "default", b"")


class Backend:
    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.gate = asyncio.Event()
        self.error: Exception | None = None

    async def enqueue(self, entries: Sequence[Entry]) -> None:
        self.batches.append([entry.id for entry in entries])
        await self.gate.wait()
        if self.error:
            raise self.error


async def test_what_comes_while_one_is_on_its_way_forms_the_next_batch():
    backend = Backend()
    outbox = Outbox(backend.enqueue, Calls())
    sends = [asyncio.create_task(outbox.send([entry(n)])) for n in range(5)]
    await asyncio.sleep(0)
    assert backend.batches == [["0"]]
    backend.gate.set()
    await asyncio.gather(*sends)
    assert backend.batches == [["0"], ["1", "2", "3", "4"]]


async def test_no_batch_is_larger_than_the_limit():
    backend = Backend()
    outbox = Outbox(backend.enqueue, Calls())
    sends = [asyncio.create_task(outbox.send([entry(n)])) for n in range(2 * MAX_BATCH + 5)]
    await asyncio.sleep(0)
    backend.gate.set()
    await asyncio.gather(*sends)
    assert [len(batch) for batch in backend.batches] == [1, MAX_BATCH, MAX_BATCH, 4]


async def test_an_error_reaches_every_caller_of_its_batch_and_the_next_goes_on():
    backend = Backend()
    backend.error = ValueError("away")
    outbox = Outbox(backend.enqueue, Calls())
    sends = [asyncio.create_task(outbox.send([entry(n)])) for n in range(3)]
    await asyncio.sleep(0)
    backend.gate.set()
    results = await asyncio.gather(*sends, return_exceptions=True)
    assert [str(result) for result in results] == ["away"] * 3
    backend.error = None
    await outbox.send([entry(9)])
    assert backend.batches[-1] == ["9"]


async def test_a_caller_that_was_cancelled_while_it_waited_has_nothing_stored():
    backend = Backend()
    outbox = Outbox(backend.enqueue, Calls())
    sends = [asyncio.create_task(outbox.send([entry(n)])) for n in range(3)]
    await asyncio.sleep(0)
    sends[1].cancel()
    with pytest.raises(asyncio.CancelledError):
        await sends[1]
    backend.gate.set()
    await asyncio.gather(sends[0], sends[2])
    assert backend.batches == [["0"], ["2"]]


async def test_cancelling_the_one_on_its_way_holds_nobody_up():
    backend = Backend()
    outbox = Outbox(backend.enqueue, Calls())
    sends = [asyncio.create_task(outbox.send([entry(n)])) for n in range(3)]
    await asyncio.sleep(0)
    sends[0].cancel()
    await asyncio.sleep(0)
    backend.gate.set()
    await asyncio.gather(sends[1], sends[2])
    await outbox.idle()
    assert backend.batches == [["0"], ["1", "2"]]
