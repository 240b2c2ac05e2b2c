"""What an operator may give the look at dead letters by mistake, on every embedded adapter."""

from __future__ import annotations

import pytest
from support import Log

from offload import Job, Reject, UsageError

ODD = [
    "",
    "x",
    "-",
    "1.5",
    "\u0661",
    "9" * 40,
    "\ud800",
    "a\0b",
    "' OR 1",
    "%",
    "row-1",
    "row-" + "9" * 30,
]


@pytest.fixture
async def worker(connect, url):
    worker, log = connect(url), Log()
    worker.observe(log)

    async def reject(args):
        raise Reject("no")

    worker.register("reject", reject)
    await worker.start()
    await worker.perform_many([Job("reject")] * 3)
    await log.until("job_dead", 3)
    return worker


@pytest.mark.parametrize("odd", ODD)
async def test_an_id_that_is_none_is_passed_over(worker, odd):
    assert await worker.dead_letters.show(odd) is None
    assert await worker.dead_letters.requeue([odd, odd]) == []
    assert await worker.dead_letters.discard([odd]) == []
    assert len(await worker.dead_letters.list()) == 3


@pytest.mark.parametrize("odd", ODD)
async def test_a_cursor_that_is_none_is_refused(worker, odd):
    with pytest.raises(UsageError, match="after"):
        await worker.dead_letters.list(1, odd)


@pytest.mark.parametrize(("limit", "count"), [(0, 0), (-1, 0), (3, 3), (1 << 63, 3), (1 << 70, 3)])
async def test_any_limit(worker, limit, count):
    assert len(await worker.dead_letters.list(limit)) == count


async def test_a_place_stays_good_whatever_happens_to_its_letter(worker):
    first, second, third = await worker.dead_letters.list()
    assert await worker.dead_letters.discard([first.id, second.id, second.id]) == [
        first.id,
        second.id,
    ]
    assert await worker.dead_letters.list(5, first.cursor) == [third]
    assert await worker.dead_letters.list(5, second.cursor) == [third]
    assert await worker.dead_letters.list(5, third.cursor) == []
