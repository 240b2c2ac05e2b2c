"""Errors whose class, parts or notes mislead whoever describes them."""

from __future__ import annotations

import asyncio
import itertools
from datetime import timedelta

import pytest

import offload
from offload import Job

DEADLINE = 20.0


NAMES = ("__name__", "__qualname__", "__module__")


class NoName(type):
    def __getattribute__(cls, name):
        if name in NAMES:
            raise SystemExit("no name")
        return super().__getattribute__(name)


class Nameless(Exception, metaclass=NoName):
    """Can't be called by its name."""


class NamedByANumber(type):
    def __getattribute__(cls, name):
        return 3 if name in NAMES else super().__getattribute__(name)


class Numbered(Exception, metaclass=NamedByANumber):
    """Its name is no text."""

    def __str__(self):
        raise ValueError


class Endless(Exception):
    """Has an attribute that is called like that of a group, and never ends."""

    @property
    def exceptions(self):
        return itertools.count()


def with_a_note():
    error = ValueError("the error itself")
    error.add_note("a note\nof two lines")
    return error


ERRORS = [Nameless, Numbered, Endless, with_a_note]


@pytest.mark.parametrize("max_attempts", [1, 2])
@pytest.mark.parametrize("kind", ["async def", "def"])
@pytest.mark.parametrize("make", ERRORS, ids=["nameless", "numbered", "endless", "note"])
async def test_an_odd_error_is_a_failure_of_its_job_alone(make, kind, max_attempts):
    worker = offload.connect(f"simple://?concurrency=2&max_attempts={max_attempts}&grace=2s")
    ran: list[object] = []

    def fail(args):
        raise make()

    async def async_fail(args):
        raise make()

    async def note(args):
        ran.append(args)

    worker.register(
        "fail", fail if kind == "def" else async_fail, backoff=offload.constant(0), timeout=30
    )
    worker.register("note", note)
    await worker.start()
    await worker.perform_many([Job("fail"), Job("note")] * 6)
    async with asyncio.timeout(DEADLINE):
        while len(ran) < 6 or (await worker.counts())["default"].dead < 6:
            await asyncio.sleep(0.005)
    assert worker._slots.busy == 0
    await worker.stop()


async def test_the_error_of_a_dead_letter_is_the_error_and_not_its_last_note():
    worker = offload.connect("simple://?max_attempts=1")

    @worker.handler("fail")
    async def fail(args):
        raise with_a_note()

    await worker.start()
    await worker.perform(Job("fail"))
    async with asyncio.timeout(DEADLINE):
        while not (letters := await worker.dead_letters.list()):
            await asyncio.sleep(0.005)
    await worker.stop()
    assert letters[0].error.splitlines()[0] == "ValueError: the error itself"
    assert "a note" in letters[0].traceback


@pytest.mark.parametrize("limit", [timedelta.max, timedelta(days=999_999_990)])
def test_an_exponential_backoff_has_an_answer_up_to_every_limit(limit):
    backoff = offload.exponential(1, limit=limit, jitter=0.5)
    assert backoff(1) >= timedelta(seconds=1)
    for attempt in (40, 60, 2000):
        assert timedelta(days=36_500) < backoff(attempt) <= timedelta.max
