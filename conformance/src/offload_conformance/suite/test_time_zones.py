"""TIME: the instants that a datetime names, and what names none."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Any

import pytest

from offload import InvalidJobError, Job
from offload_conformance.lab import Lab, now
from offload_conformance.suite.test_time import ABOUT_MS, milliseconds

pytestmark = pytest.mark.asyncio


class Nowhere(tzinfo):
    """A zone that doesn't know its offset: a datetime in it has none."""

    def utcoffset(self, when: datetime | None) -> None:
        return None

    def dst(self, when: datetime | None) -> None:
        return None

    def tzname(self, when: datetime | None) -> None:
        return None


async def test_TIME_4_no_time_at_all(lab: Lab) -> None:
    worker = lab.worker()
    await worker.start()
    job = Job("act", {"tag": "never"})
    delays: list[Any] = [math.nan, math.inf, -math.inf, "5", None, [1], b"1", now()]
    whens: list[Any] = [
        *(datetime(2030, 1, 1), datetime(2020, 1, 1)),  # noqa: DTZ001  (that is what is tested)
        datetime(2020, 1, 1, tzinfo=Nowhere()),
        *("2030-01-01T00:00:00Z", None),
    ]
    calls = {f"perform_in {delay!r}": worker.perform_in(job, delay) for delay in delays}
    calls |= {f"perform_at {when!r}": worker.perform_at(job, when) for when in whens}
    for name, call in calls.items():
        await lab.refused(InvalidJobError, name, call)
        lab.check("raised", call=name, error="ValueError")
    await lab.fence(worker)
    lab.check("each_once")


class ChangeOfClocks(tzinfo):
    """A zone whose clocks go back by an hour at an instant: the hour before it comes twice."""

    def __init__(self, change: datetime) -> None:
        self._change = change.astimezone(UTC).replace(tzinfo=None)

    def utcoffset(self, when: datetime | None) -> timedelta:
        if when is None:
            return timedelta(hours=1)
        local = when.replace(tzinfo=None)
        begins, ends = self._change + timedelta(hours=1), self._change + timedelta(hours=2)
        is_summer = local < begins or (local < ends and not when.fold)
        return timedelta(hours=2 if is_summer else 1)

    def dst(self, when: datetime | None) -> timedelta:
        return self.utcoffset(when) - timedelta(hours=1)

    def tzname(self, when: datetime | None) -> str:
        return "summer" if self.dst(when) else "winter"

    def fromutc(self, when: datetime) -> datetime:
        utc = when.replace(tzinfo=None)
        is_summer = utc < self._change
        is_second = self._change <= utc < self._change + timedelta(hours=1)
        local = when + timedelta(hours=2 if is_summer else 1)
        return local.replace(fold=int(is_second))


async def test_TIME_8_the_same_instant_in_every_zone(lab: Lab) -> None:
    worker = lab.worker()
    await worker.start()
    due = now() + milliseconds(60)
    offsets = (0, 14 * 60, -12 * 60, 5 * 60 + 45, -3 * 60 - 30)
    zones: list[tzinfo] = [timezone(timedelta(minutes=minutes)) for minutes in offsets]
    zones += [timezone(timedelta(minutes=53, seconds=28)), ChangeOfClocks(now())]
    for zone in zones:
        await lab.perform(worker, "here", at=due.astimezone(zone))
    await lab.until_started(len(zones))
    lab.check("never_early")
    lab.check("due_as_asked", slack_ms=ABOUT_MS)


async def test_TIME_8_both_folds_of_a_change_of_clocks(lab: Lab) -> None:
    worker = lab.worker()
    await worker.start()
    change = now() + milliseconds(60)
    zone = ChangeOfClocks(change)
    for number in (-30, -15, 15, 30):
        await lab.perform(worker, "near", at=(change + milliseconds(number)).astimezone(zone))
    # The wall clock of the first, in the other fold: an hour later.
    again = (change - milliseconds(30)).astimezone(zone).replace(fold=1)
    await lab.perform(worker, "an hour later", at=again)
    await lab.until_started(4, "near")
    await lab.fence(worker)
    lab.check("never_early")
    lab.check("never_ran", tag="an hour later")
