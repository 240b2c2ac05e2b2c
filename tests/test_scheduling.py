"""TIME: later, and never early."""

from __future__ import annotations

import asyncio
import math
import time
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest

from offload import InvalidJobError, Job, UnsupportedError

EAST, WEST = timezone(timedelta(hours=1)), timezone(timedelta(hours=-1))


async def test_time_1_never_early_and_time_7_in_due_order(connect, url, recorder):
    worker = connect(url)
    worker.register("note", recorder.note)
    await worker.start()
    due = {}
    for milliseconds in (400, 5, 133, 1, 77, 250, 33):
        asked = time.time()
        job_id = await worker.perform_in(Job("note"), timedelta(milliseconds=milliseconds))
        due[job_id] = asked + milliseconds / 1000
    await recorder.until_started(len(due))
    for job in recorder.started:
        assert recorder.started_at[job.id] >= due[job.id]
        assert job.due_ms / 1000 >= due[job.id]
    dues = [job.due_ms for job in recorder.started]
    assert dues == sorted(dues)


async def test_time_3_past_and_zero_run_at_once(connect, url, recorder):
    worker = connect(url)
    worker.register("note", recorder.note)
    await worker.start()
    await worker.perform_in(Job("note"), 0)
    await worker.perform_in(Job("note"), -5.5)
    await worker.perform_in(Job("note"), timedelta(days=-4000))
    await worker.perform_in(Job("note"), timedelta.min)
    await worker.perform_at(Job("note"), datetime(1969, 1, 1, tzinfo=UTC))
    await worker.perform_at(Job("note"), datetime.min.replace(tzinfo=UTC))
    await worker.perform_at(Job("note"), datetime.min.replace(tzinfo=EAST))
    await worker.perform_in(Job("note"), -(10**400))
    await recorder.until_started(8)
    assert all(counts.scheduled == 0 for counts in (await worker.counts()).values())


@pytest.mark.parametrize(
    "delay", [math.nan, math.inf, -math.inf, "5", None, True, Decimal(5), [1]], ids=repr
)
async def test_time_4_bad_delays(connect, url, delay):
    worker = connect(url)
    worker.register("note", print)
    with pytest.raises(InvalidJobError, match="delay"):
        await worker.perform_in(Job("note"), delay)
    assert await worker.counts() == {}


@pytest.mark.parametrize("when", [datetime(2030, 1, 1), "2030-01-01", 5, None], ids=repr)  # noqa: DTZ001
async def test_time_4_bad_instants(connect, url, when):
    worker = connect(url)
    worker.register("note", print)
    with pytest.raises(ValueError, match="when"):
        await worker.perform_at(Job("note"), when)
    assert await worker.counts() == {}


async def test_time_5_perform_in_and_perform_at_agree(connect, url, recorder):
    worker = connect(url)
    worker.register("note", recorder.note)
    await worker.start()
    asked = time.time()
    await worker.perform_in(Job("note"), 0.25)
    await worker.perform_at(Job("note"), datetime.now(UTC) + timedelta(seconds=0.25))
    answered = time.time()
    await recorder.until_started(2)
    for job in recorder.started:
        assert asked + 0.25 <= job.due_ms / 1000 <= answered + 0.252


async def test_time_6_the_longest_delay_passes_and_more_does_not(connect, url):
    worker = connect(url)
    worker.register("note", print)
    limit = worker.limits.max_delay
    for call in (
        worker.perform_in(Job("note"), limit + timedelta(milliseconds=1)),
        worker.perform_in(Job("note"), 1e300),
        worker.perform_in(Job("note"), timedelta.max),
        worker.perform_in(Job("note"), 10**400),
        worker.perform_at(Job("note"), datetime.max.replace(tzinfo=WEST)),
        worker.perform_at(Job("note"), datetime.max.replace(tzinfo=UTC)),
        worker.perform_at(Job("note"), datetime.now(UTC) + limit + timedelta(seconds=1)),
    ):
        with pytest.raises(UnsupportedError, match="36500d"):
            await call
    assert await worker.counts() == {}
    await worker.perform_in(Job("note"), limit)
    await worker.perform_at(Job("note"), datetime.now(UTC) + limit)
    assert (await worker.counts())["default"].scheduled == 2


async def test_time_8_the_same_instant_in_any_zone_folds_included(connect, url, recorder):
    worker = connect(url)
    worker.register("note", recorder.note)
    berlin = ZoneInfo("Europe/Berlin")
    # 2.30 h came twice on that night: first in summer time, then in winter time.
    instants = [
        datetime(2020, 10, 25, 2, 30, tzinfo=berlin, fold=0),
        datetime(2020, 10, 25, 2, 30, tzinfo=berlin, fold=1),
        datetime(2020, 10, 25, 0, 30, tzinfo=UTC),
        datetime(2020, 10, 25, 1, 30, tzinfo=timezone(timedelta(hours=-1, minutes=-30))),
    ]
    future = datetime.now(UTC).year + 1
    last_sunday = max(
        day for day in range(25, 32) if datetime(future, 10, day, tzinfo=UTC).weekday() == 6
    )
    worker_due = []
    for fold in (0, 1):
        when = datetime(future, 10, last_sunday, 2, 30, tzinfo=berlin, fold=fold)
        await worker.perform_at(Job("note"), when)
        worker_due.append(when.timestamp())
    assert worker_due[1] - worker_due[0] == 3600
    await worker.start()
    for when in instants:
        await worker.perform_at(Job("note"), when)
    await recorder.until_started(4)
    assert (await worker.counts())["default"].scheduled == 2


async def test_time_9_a_thousand_jobs_due_at_one_instant(connect, url, recorder):
    worker = connect(url)
    worker.register("note", recorder.note)
    await worker.start()
    when = datetime.now(UTC) + timedelta(seconds=0.3)
    ids = await asyncio.gather(*(worker.perform_at(Job("note"), when) for _ in range(1000)))
    await recorder.until_started(1000)
    assert sorted(job.id for job in recorder.started) == sorted(ids)
    assert min(recorder.started_at.values()) >= when.timestamp()


async def test_a_job_that_is_due_sooner_than_the_one_waited_for(connect, url, recorder):
    worker = connect(url)
    worker.register("note", recorder.note)
    await worker.start()
    await worker.perform_in(Job("note"), 3600)
    soon = await worker.perform_in(Job("note"), 0.05)
    await recorder.until_started(1)
    assert recorder.started[0].id == soon
