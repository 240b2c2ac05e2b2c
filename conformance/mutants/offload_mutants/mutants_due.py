"""TIME: slips with jobs that wait for their time together."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from offload import Entry, Fetched
from offload.config import Config
from offload_mutants.registry import mutant
from offload_simple.driver import SimpleDriver
from offload_simple.memory import Memory, StoredJob, now_ms
from offload_simple.subscription import SimpleSubscription


class _Line(Memory):
    def _push(self, job: StoredJob) -> None:
        self.scheduled.append((job.due_ms, next(self._sequence), job))

    def promote(self) -> None:
        while self.scheduled and self.scheduled[0][0] <= now_ms():
            job = self.scheduled.pop(0)[2]
            self.ready[job.queue].append(job)


@mutant("TIME-7")
class LooksAtTheFirstInLine(SimpleDriver):
    """Delays are a queue of messages that expire, seen only at its head."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._memory = _Line()


class _Hundred(Memory):
    def promote(self) -> None:
        now = now_ms()
        for _ in range(100):
            if not self.scheduled or self.scheduled[0][0] > now:
                return
            job = heapq.heappop(self.scheduled)[2]
            self.ready[job.queue].append(job)
        while self.scheduled and self.scheduled[0][0] <= now:
            heapq.heappop(self.scheduled)


@mutant("TIME-9")
class MovesAHundredAndDeletesAll(SimpleDriver):
    """`INSERT … LIMIT 100`, and then a `DELETE` of all that is due."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._memory = _Hundred()


@mutant("TIME-7", "TIME-2")
class SetsOneTimer(SimpleDriver):
    """Sets a timer when a job comes that is due later, unless there is one, for whatever time."""

    async def enqueue(self, entries: Sequence[Entry]) -> None:
        if self._memory.scheduled and all(each.delay_ms or each.at_ms for each in entries):
            self._memory.add(entries)
        else:
            await super().enqueue(entries)


class _LooksAheadInOne(SimpleSubscription):
    async def fetch(self, limit: int) -> Fetched:
        fetched = await super().fetch(limit)
        scheduled = self._memory.scheduled
        if fetched.next_due_ms is None or scheduled[0][2].queue == self._queues[0]:
            return fetched
        return Fetched(fetched.deliveries)


@mutant("TIME-2")
class LooksAheadInItsFirstQueue(SimpleDriver):
    """Asks when the next job is due for the queue it was written with, of which there are more."""

    async def subscribe(self, queues: Sequence[str]) -> SimpleSubscription:
        self._memory.take_back()
        self._subscription = _LooksAheadInOne(self._memory, queues)
        return self._subscription


class _InTheOrderOfCalls(Memory):
    def promote(self) -> None:
        due = [each for each in self.scheduled if each[0] <= now_ms()]
        for each in sorted(due, key=lambda each: each[1]):
            self.scheduled.remove(each)
            self.ready[each[2].queue].append(each[2])
        heapq.heapify(self.scheduled)


@mutant("TIME-7")
class TakesWhatIsDueInTheOrderOfItsCalls(SimpleDriver):
    """`WHERE due <= now ORDER BY id`."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._memory = _InTheOrderOfCalls()


class _CallsItself(Memory):
    def promote(self) -> None:
        for job in self._due(now_ms()):
            self.ready[job.queue].append(job)

    def _due(self, now: int) -> list[StoredJob]:
        if not self.scheduled or self.scheduled[0][0] > now:
            return []
        job = heapq.heappop(self.scheduled)[2]
        return [job, *self._due(now)]


@mutant("TIME-9")
class CallsItselfForTheNext(SimpleDriver):
    """Takes the first that is due, and by calling itself the others: Python allows a thousand."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._memory = _CallsItself()


class _BySlots(Memory):
    def _push(self, job: StoredJob) -> None:
        if sum(due == job.due_ms for due, _, _ in self.scheduled) < 255:
            super()._push(job)


@mutant("TIME-9")
class CountsTheJobsOfASlotInAByte(SimpleDriver):
    """Has a slot for each millisecond, with room for 255 jobs."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._memory = _BySlots()
