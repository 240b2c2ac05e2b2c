"""TIME: slips in scheduling; see also `mutants_due`."""

from __future__ import annotations

import heapq
import math
import time
import zlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from offload import Entry, InvalidJobError, Job
from offload.config import QUEUES, Config
from offload_mutants.registry import mutant
from offload_mutants.wrapper import Wrapper
from offload_simple.driver import SimpleDriver
from offload_simple.memory import Memory, now_ms

# -- TIME-1: early ---------------------------------------------------------------


@mutant("TIME-1", "TIME-5", "TIME-10", "PERF-2", "LIFE-9")
class FiresTwentyMillisecondsEarly(Wrapper):
    """Makes up for what its author took for lateness."""

    async def perform_in(self, job: Job, delay: timedelta | float) -> str:
        seconds = delay.total_seconds() if isinstance(delay, timedelta) else delay
        is_far = isinstance(seconds, float | int) and 0.02 < seconds < 3600
        return await super().perform_in(job, seconds - 0.02 if is_far else delay)


@mutant("TIME-1", "TIME-5", "TIME-7", "TIME-8", "TIME-9", "TIME-10")
class CutsInstantsToSeconds(Wrapper):
    """Stores an instant as text, without the part behind the point."""

    async def perform_at(self, job: Job, when: datetime) -> str:
        if isinstance(when, datetime):
            when = when.replace(microsecond=0)
        return await super().perform_at(job, when)


@mutant("TIME-1", "TIME-2", "TIME-5", "TIME-7", "TIME-8", "TIME-10", quick=False)
class RoundsWhatIsFarToSeconds(SimpleDriver):
    """Has timers in whole seconds for all that is farther than that; the nearest one will do."""

    async def enqueue(self, entries: Sequence[Entry]) -> None:
        await super().enqueue([_to_the_nearest_second(each) for each in entries])


def _to_the_nearest_second(entry: Entry) -> Entry:
    now_ms = time.time_ns() // 1_000_000
    due_ms = now_ms + entry.delay_ms if entry.at_ms is None else entry.at_ms
    if due_ms - now_ms < 1000:
        return entry
    return msgspec.structs.replace(entry, delay_ms=0, at_ms=round(due_ms / 1000) * 1000)


@mutant("TIME-1", "TIME-5", "TIME-8", "TIME-10")
class CutsInstantsToMilliseconds(Wrapper):
    """`int(when.timestamp() * 1000)`: up to a millisecond early."""

    async def perform_at(self, job: Job, when: datetime) -> str:
        if isinstance(when, datetime):
            when = when.replace(microsecond=when.microsecond // 1000 * 1000)
        return await super().perform_at(job, when)


class _Hasty(Memory):
    def promote(self) -> None:
        while self.scheduled and self.scheduled[0][0] <= now_ms() + 5:
            job = heapq.heappop(self.scheduled)[2]
            self.ready[job.queue].append(job)


@mutant("TIME-1", "TIME-5", "TIME-8", "TIME-9", "TIME-10", "PERF-2")
class TakesWhatIsNearlyDue(SimpleDriver):
    """Takes what is due in the next five milliseconds too, to save itself a look."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._memory = _Hasty()


# -- TIME-2, TIME-10: late ---------------------------------------------------------


def rounded_up(entries: Sequence[Entry], step_ms: int) -> list[Entry]:
    """The entries, due at the next full step after they should be."""
    return [
        msgspec.structs.replace(
            e,
            delay_ms=-(-e.delay_ms // step_ms) * step_ms,
            at_ms=None if e.at_ms is None else -(-e.at_ms // step_ms) * step_ms,
        )
        for e in entries
    ]


@mutant("TIME-2", "TIME-7", "TIME-10")
class LooksOnlyNowAndThen(SimpleDriver):
    """Rounds every due time up to the next second, as a poller does."""

    async def enqueue(self, entries: Sequence[Entry]) -> None:
        await super().enqueue(rounded_up(entries, 1000))


@mutant("TIME-2", "TIME-7", "TIME-10")
class ForgetsEveryThird(SimpleDriver):
    """Looks again only after a second and a half for each third of those that are due later."""

    _later = 0

    async def enqueue(self, entries: Sequence[Entry]) -> None:
        await super().enqueue([self._delayed(each) for each in entries])

    def _delayed(self, entry: Entry) -> Entry:
        if not entry.delay_ms:
            return entry
        self._later += 1
        late = 1500 if self._later % 3 == 0 else 0
        return msgspec.structs.replace(entry, delay_ms=entry.delay_ms + late)


@mutant("TIME-10")
class RoundsToTenMilliseconds(SimpleDriver):
    """Its timers tick a hundred times in a second."""

    async def enqueue(self, entries: Sequence[Entry]) -> None:
        await super().enqueue(rounded_up(entries, 10))


@mutant("TIME-10", "TIME-5")
class SpreadsWhatIsDueTogether(SimpleDriver):
    """Adds up to eight milliseconds to each delay, so that not all come at once."""

    async def enqueue(self, entries: Sequence[Entry]) -> None:
        await super().enqueue([self._spread(each) for each in entries])

    def _spread(self, entry: Entry) -> Entry:
        some = zlib.crc32(entry.id.encode()) % 9
        if entry.at_ms is not None:
            return msgspec.structs.replace(entry, at_ms=entry.at_ms + some)
        return msgspec.structs.replace(entry, delay_ms=entry.delay_ms and entry.delay_ms + some)


@mutant("TIME-10", "TIME-5")
class HasCoarserTimersForWhatIsFarther(SimpleDriver):
    """A wheel of timers: what is farther than a second goes into slots of ten milliseconds."""

    async def enqueue(self, entries: Sequence[Entry]) -> None:
        await super().enqueue(
            [
                rounded_up([each], 10)[0]
                if each.delay_ms > 1000 or (each.at_ms or 0) > now_ms() + 1000
                else each
                for each in entries
            ]
        )


# -- TIME-3: what is due already -----------------------------------------------------


@mutant("TIME-3")
class RefusesThePast(Wrapper):
    """Takes a delay below zero for a mistake."""

    async def perform_in(self, job: Job, delay: timedelta | float) -> str:
        seconds = delay.total_seconds() if isinstance(delay, timedelta) else delay
        if isinstance(seconds, float | int) and -math.inf < seconds < 0:
            raise InvalidJobError("delay: must not be negative")
        return await super().perform_in(job, delay)


@mutant("TIME-3")
class SchedulesThePastToo(Wrapper):
    """What is due already is put among the scheduled jobs, for its next look at them."""

    async def perform_in(self, job: Job, delay: timedelta | float) -> str:
        seconds = delay.total_seconds() if isinstance(delay, timedelta) else delay
        if isinstance(seconds, float | int) and -math.inf < seconds <= 0:
            return await super().perform_in(job, 0.1)
        return await super().perform_in(job, delay)


# -- TIME-4: no time at all ------------------------------------------------------------


@mutant("TIME-4")
class TakesNaiveForUtc(Wrapper):
    """A datetime without a zone is surely meant to be in UTC."""

    async def perform_at(self, job: Job, when: datetime) -> str:
        if isinstance(when, datetime) and when.tzinfo is None:
            when = when.replace(tzinfo=UTC)
        return await super().perform_at(job, when)


@mutant("TIME-4")
class TakesTextForSeconds(Wrapper):
    """`float(delay)`."""

    async def perform_in(self, job: Job, delay: Any) -> str:
        return await super().perform_in(job, float(delay) if isinstance(delay, str) else delay)


@mutant("TIME-4")
class TakesNanForNow(Wrapper):
    """`max(0, nan)` is 0."""

    async def perform_in(self, job: Job, delay: timedelta | float) -> str:
        is_nan = isinstance(delay, float) and math.isnan(delay)
        return await super().perform_in(job, 0 if is_nan else delay)


@mutant("TIME-4")
class RaisesItsOwnTypeError(Wrapper):
    """Lets the error of the arithmetic through, which is not one of the contract's."""

    async def perform_in(self, job: Job, delay: timedelta | float) -> str:
        if not isinstance(delay, timedelta):
            delay += 0
        return await super().perform_in(job, delay)


# -- TIME-5, TIME-6 ----------------------------------------------------------------


@mutant("TIME-5")
class ForgetsTheDays(Wrapper):
    """`delay.seconds`, where `delay.total_seconds()` is meant."""

    async def perform_in(self, job: Job, delay: timedelta | float) -> str:
        if isinstance(delay, timedelta) and timedelta(0) < delay < timedelta(days=10_000):
            delay = timedelta(seconds=delay.seconds, microseconds=delay.microseconds)
        return await super().perform_in(job, delay)


@mutant("TIME-5", "TIME-1")
class TakesWholeNumbersForMilliseconds(Wrapper):
    """Has delays in milliseconds where they are ints, as its backend has them."""

    async def perform_in(self, job: Job, delay: timedelta | float) -> str:
        is_whole = type(delay) is int and 0 < delay < 1_000_000
        return await super().perform_in(job, delay / 1000 if is_whole else delay)


@mutant("TIME-5")
class PerformsAtInTheDefaultQueue(Wrapper):
    """Builds a new job for `perform_at`, without the queue of the old one."""

    async def perform_at(self, job: Job, when: datetime) -> str:
        if isinstance(job, Job) and job.queue in self.config[QUEUES]:
            job = Job(job.handler, job.args, self.config[QUEUES][0])
        return await super().perform_at(job, when)


@mutant("TIME-6")
class RefusesTheLongest(Wrapper):
    """`>=` for `>`."""

    async def perform_in(self, job: Job, delay: timedelta | float) -> str:
        if delay == self.limits.max_delay:
            delay = timedelta.max
        return await super().perform_in(job, delay)


@mutant("TIME-6")
class CutsWhatIsTooFar(Wrapper):
    """Takes what is too far for the farthest that it can."""

    async def perform_in(self, job: Job, delay: timedelta | float) -> str:
        if isinstance(delay, timedelta):
            delay = min(delay, self.limits.max_delay)
        return await super().perform_in(job, delay)


# -- TIME-8: zones -------------------------------------------------------------------


@mutant("TIME-8")
class IgnoresTheFold(Wrapper):
    """Takes the first of two, when a wall clock shows the same time twice."""

    async def perform_at(self, job: Job, when: datetime) -> str:
        if isinstance(when, datetime):
            when = when.replace(fold=0)
        return await super().perform_at(job, when)


@mutant("TIME-8")
class ReckonsInLocalTime(Wrapper):
    """`when - datetime.now(when.tzinfo)`: of two in one zone, Python compares the wall clocks."""

    async def perform_at(self, job: Job, when: datetime) -> str:
        is_near = isinstance(when, datetime) and when.utcoffset() is not None
        if is_near and abs(when.year - datetime.now(UTC).year) < 2:
            off = (when - datetime.now(when.tzinfo)) - (when.astimezone(UTC) - datetime.now(UTC))
            if abs(off) > timedelta(minutes=30):
                when = when.astimezone(UTC) + off
        return await super().perform_at(job, when)


@mutant("TIME-8")
class DropsTheSecondsOfAZone(Wrapper):
    """Stores an instant with its offset in hours and minutes."""

    async def perform_at(self, job: Job, when: datetime) -> str:
        if isinstance(when, datetime) and when.tzinfo is not None:
            offset = when.utcoffset() or timedelta(0)
            when += timedelta(seconds=offset.seconds % 60)
        return await super().perform_at(job, when)
