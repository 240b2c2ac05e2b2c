"""Taking out all dead letters: in one pass where the driver can, else page by page."""

from __future__ import annotations

import pytest

from offload import Failure, StoredDeadLetter
from offload.engine.dead_letters import PAGE, StoredDeadLetters


class Pages:
    """A store without a pass over all; its jobs may die again at once."""

    def __init__(self, count: int, *, dies_again: bool, copies: int = 1) -> None:
        self.last = 0
        self.dies_again = dies_again
        self.letters: list[StoredDeadLetter] = []
        for number in range(count):
            for _ in range(copies):
                self.bury(str(number))

    def bury(self, job_id: str) -> None:
        self.last += 1
        self.letters.append(
            StoredDeadLetter(job_id, "default", b"", 0, Failure(""), str(self.last))
        )

    async def list_dead(self, limit, after):
        place = int(after or 0)
        return [letter for letter in self.letters if int(letter.cursor) > place][:limit]

    async def show_dead(self, job_id):
        raise NotImplementedError

    async def requeue_dead(self, ids):
        there = [each for each in ids if any(letter.id == each for letter in self.letters)]
        self.letters = [letter for letter in self.letters if letter.id not in ids]
        if self.dies_again:
            for each in there:
                self.bury(each)
        return there

    discard_dead = requeue_dead


class Busy(Pages):
    """A store into which other jobs die as fast as these are taken out."""

    async def requeue_dead(self, ids):
        there = await super().requeue_dead(ids)
        self.bury(f"another {self.last}")
        return there


class Sweeping(Pages):
    """A store that has one."""

    async def requeue_all_dead(self):
        return 7

    async def discard_all_dead(self):
        return 8


def looking(store):
    """As a worker looks: with an open driver."""

    async def look(action):
        return await action(store)

    return StoredDeadLetters(look)


@pytest.mark.parametrize("copies", [1, 3])
@pytest.mark.parametrize("way", ["requeue_all", "discard_all"])
async def test_all_pages_are_taken_out(way, copies):
    store = Pages(2 * PAGE + 5, dies_again=False, copies=copies)

    assert await getattr(looking(store), way)() == 2 * PAGE + 5
    assert store.letters == []


@pytest.mark.parametrize("count", [3, PAGE, 2 * PAGE + 5])
async def test_it_comes_to_an_end_though_every_job_dies_again(count):
    """As with a worker beside it, whose handler always fails."""
    store = Pages(count, dies_again=True)

    assert await looking(store).requeue_all() == count
    assert len(store.letters) == count


async def test_it_comes_to_an_end_though_others_die():
    store = Busy(PAGE + 5, dies_again=False)

    assert PAGE + 5 <= await looking(store).requeue_all() <= PAGE + 10
    assert store.letters


async def test_one_pass_where_the_driver_has_it():
    letters = looking(Sweeping(5, dies_again=False))

    assert (await letters.requeue_all(), await letters.discard_all()) == (7, 8)
