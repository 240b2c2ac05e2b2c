"""Slips that show when the backend or the network fails, or when a worker's clock is wrong."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Collection, Sequence

import msgspec

from offload import (
    BackendUnavailableError,
    Delivery,
    Entry,
    Fetched,
    Job,
    Settlement,
    State,
    Verdict,
)
from offload.config import Config
from offload_mutants import net_wire as wire
from offload_mutants.net_driver import POLL, NetDriver, NetSubscription
from offload_mutants.registry import mutant
from offload_mutants.wrapper import Wrapper


@mutant("LIFE-4", base="net")
class ConnectsWhenItMust(NetDriver):
    """Has nothing to do to open, so that a start without a backend goes well."""

    async def open(self) -> None:
        pass


@mutant("LIFE-4", base="net")
class RaisesWhatTheSocketRaises(NetDriver):
    """Lets the error of its client library through."""

    async def open(self) -> None:
        async with self._turn:
            if self._connection is None:
                self._connection = await asyncio.open_connection(*self.address)


@mutant("LIFE-4", base="net")
class TriesForTenSeconds(NetDriver):
    """Is patient when it opens, beyond what it states."""

    async def open(self) -> None:
        for _ in range(100):
            with contextlib.suppress(BackendUnavailableError):
                return await super().open()
            await asyncio.sleep(0.1)
        return await super().open()


@mutant("LIFE-4", base="net")
class AFailedStartStopsIt(Wrapper):
    """Takes a start that failed for the end of the worker."""

    base = "net"

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._failed = False

    @property
    def state(self) -> State:
        return State.STOPPED if self._failed else super().state

    async def start(self) -> None:
        self._failed = False
        try:
            await super().start()
        except BackendUnavailableError:
            self._failed = True
            raise


@mutant("PERF-8", base="net")
class PerformsOnceItIsBack(NetDriver):
    """Tries again for as long as it takes."""

    async def enqueue(self, entries: Sequence[Entry]) -> None:
        while True:
            with contextlib.suppress(BackendUnavailableError):
                return await super().enqueue(entries)
            await asyncio.sleep(0.1)


@mutant("PERF-8", base="net")
class StoresWhatItRefused(NetDriver):
    """Says that a job was not stored, and keeps it to be sent when the backend is back."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._unsent: list[Entry] = []

    async def enqueue(self, entries: Sequence[Entry]) -> None:
        try:
            await super().enqueue([*self._unsent, *entries])
        except BackendUnavailableError as error:
            self._unsent += entries
            raise BackendUnavailableError(str(error)) from error
        self._unsent = []


@mutant("DUR-3", "PERF-8", base="net", quick=False)
class ForgetsWhenItIsKilled(NetDriver):
    """Has a backend that keeps its jobs in memory alone."""

    backend = (wire.FORGETS,)


@mutant("DUR-3", "PERF-8", base="net", quick=False)
class WritesAMomentAfterItsAnswer(NetDriver):
    """Has a backend that answers at once and writes what it holds every 200 ms, as many can."""

    backend = (wire.LAGS,)


@mutant("DUR-3", "DUR-4", "DUR-5", "DUR-8", "PERF-8", base="net", quick=False)
class ConnectsOnlyWhenItOpens(NetDriver):
    """Leaves it to a restart of the worker to come back to its backend."""

    timeout = 5.0  # a busy host must not end it for good

    async def open(self) -> None:
        async with self._turn:
            await super().connect()

    async def connect(self) -> None:
        if self._connection is None:
            raise BackendUnavailableError("the connection was lost")


@mutant("DUR-4", "DUR-1", "DUR-3", "PERF-8", base="net", quick=False)
class AcknowledgesBeforeTheAnswer(NetDriver):
    """Takes what it has sent for stored."""

    async def enqueue(self, entries: Sequence[Entry]) -> None:
        try:
            await super().enqueue(entries)
        except BackendUnavailableError as error:
            if not error.maybe_stored:
                raise


@mutant("DUR-4", base="net", quick=False)
class TakesTheFirstAnswerForAll(NetDriver):
    """Sends what comes together one by one, and looks at the first answer only."""

    async def enqueue(self, entries: Sequence[Entry]) -> None:
        await super().enqueue(entries[:1])
        with contextlib.suppress(BackendUnavailableError):
            for entry in entries[1:]:
                await super().enqueue([entry])


@mutant("DUR-5", base="net", quick=False)
class WaitsTooLong(NetDriver):
    """Notices silence, and later than it states."""

    timeout = 6.0


@mutant("DUR-5", base="net", quick=False)
class FetchesWithoutATimeout(NetDriver):
    """Notices silence when it performs, and waits for jobs for ever."""

    def patience(self, request: wire.AnyRequest) -> float | None:
        return None if isinstance(request, wire.Fetch) else self.timeout


class _LosesItsListener(NetSubscription):
    async def wait(self, timeout: float) -> None:
        await asyncio.sleep(min(timeout, 0.4) if self._driver.was_cut else POLL)


@mutant("DUR-9", base="net", quick=False)
class ListensNoMoreAfterACut(NetDriver):
    """Falls back to a look now and then when it has lost its listener, and stays there."""

    was_cut = False

    async def disconnect(self) -> None:
        self.was_cut = True
        await super().disconnect()

    async def subscribe(self, queues: Sequence[str]) -> NetSubscription:
        return _LosesItsListener(self, queues)


class _WaitsAsItsDriverSays(NetSubscription):
    async def wait(self, timeout: float) -> None:
        await asyncio.sleep(min(timeout, self._driver.pause))


class Pauses(NetDriver):
    """A driver with a pause between two looks that its connection may change."""

    pause = POLL

    async def subscribe(self, queues: Sequence[str]) -> NetSubscription:
        return _WaitsAsItsDriverSays(self, queues)


@mutant("DUR-9", base="net", quick=False)
class ListensAgainOnlyOnce(Pauses):
    """Makes a new listener when it has lost the first, and none when it has lost that."""

    cuts = 0

    async def disconnect(self) -> None:
        if self._connection is not None:
            self.cuts += 1
            self.pause = POLL if self.cuts < 2 else 60.0
        await super().disconnect()


@mutant("DUR-9", base="net", quick=False)
class ItsPauseStaysLong(Pauses):
    """Doubles its pause with each try that fails, and never takes that back."""

    async def connect(self) -> None:
        try:
            await super().connect()
        except BackendUnavailableError:
            self.pause = min(2 * self.pause, 1.0)
            raise


@mutant("PERF-8", base="net", quick=False)
class SaysThatNothingWasStored(NetDriver):
    """Takes what raised for not done, though the answer alone may be lost."""

    async def enqueue(self, entries: Sequence[Entry]) -> None:
        try:
            await super().enqueue(entries)
        except BackendUnavailableError as error:
            raise BackendUnavailableError(str(error)) from error


@mutant("PERF-8", base="net", quick=False)
class SaysThatAnythingMayBeStored(NetDriver):
    """Is on the safe side, and says so even where it could not connect."""

    async def enqueue(self, entries: Sequence[Entry]) -> None:
        try:
            await super().enqueue(entries)
        except BackendUnavailableError as error:
            raise BackendUnavailableError(str(error), maybe_stored=True) from error


@mutant("PERF-8", "DUR-4", base="net", quick=False)
class TellsOfTheLastTryAlone(NetDriver):
    """Stores what comes together one by one, and tells of the one with which that ended."""

    async def enqueue(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            try:
                await super().enqueue([entry])
            except BackendUnavailableError:
                await super().enqueue([entry])  # over a new connection


@mutant("TIME-1", base="net", quick=False)
class HandsOverAnInstantOfItsOwn(NetDriver):
    """Makes an instant of every delay, by the clock of the host that performs."""

    async def enqueue(self, entries: Sequence[Entry]) -> None:
        now_ms = time.time_ns() // 1_000_000
        await super().enqueue(
            [
                msgspec.structs.replace(entry, delay_ms=0, at_ms=now_ms + entry.delay_ms)
                if entry.at_ms is None and entry.delay_ms
                else entry
                for entry in entries
            ]
        )


class _LooksAtItsClock(NetSubscription):
    async def fetch(self, limit: int) -> Fetched:
        fetched = await super().fetch(limit)
        now_ms = time.time_ns() // 1_000_000
        early = [each for each in fetched.deliveries if each.due_ms > now_ms]
        await self.settle([Settlement(each, Verdict.RELEASE) for each in early])
        return Fetched([each for each in fetched.deliveries if each not in early])


@mutant("TIME-1", base="net", quick=False)
class TrustsItsOwnClockMore(NetDriver):
    """Gives back what the backend has taken for due, and its own host not."""

    async def subscribe(self, queues: Sequence[str]) -> NetSubscription:
        return _LooksAtItsClock(self, queues)


class _SettlesNowAndThen(NetSubscription):
    async def settle(self, settlements: Sequence[Settlement]) -> Collection[Delivery]:
        kept = [s for number, s in enumerate(settlements) if number % 7 != 6]
        return await super().settle(kept)


@mutant("PERF-2", "DIST-1", base="net", quick=False)
class LosesSomeOfItsAcknowledgements(NetDriver):
    """Sends its verdicts and doesn't wait for an answer; some of them the backend never sees."""

    async def subscribe(self, queues: Sequence[str]) -> NetSubscription:
        return _SettlesNowAndThen(self, queues)


class _WaitsForASlot(NetSubscription):
    async def settle(self, settlements: Sequence[Settlement]) -> Collection[Delivery]:
        self._driver.busy -= len(settlements)
        return await super().settle(settlements)

    async def fetch(self, limit: int) -> Fetched:
        self._driver.most = limit if self._driver.most is None else self._driver.most
        fetched = await super().fetch(limit)
        self._driver.busy += len(fetched.deliveries)
        return fetched


@mutant("PERF-7", "PERF-3", base="net")
class PerformsWhereThereIsRoom(NetDriver):
    """Lets a worker perform only what it could run: with all slots taken, it waits."""

    busy = 0
    most: int | None = None

    async def subscribe(self, queues: Sequence[str]) -> NetSubscription:
        return _WaitsForASlot(self, queues)

    async def enqueue(self, entries: Sequence[Entry]) -> None:
        while self.most is not None and self.busy >= self.most:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await super().enqueue(entries)


@mutant("PERF-8", base="net", quick=False)
class WaitsForItsAnswerForEver(NetDriver):
    """Notices a connection that is closed, and none that is silent."""

    def patience(self, request: wire.AnyRequest) -> float | None:
        return None if isinstance(request, wire.Enqueue) else self.timeout


@mutant("PERF-8", base="net", quick=False)
class PerformsOneAfterTheOther(Wrapper):
    """Lets each perform wait until that before it has returned, or has failed in its own time."""

    base = "net"

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._performing = asyncio.Lock()

    async def perform(self, job: Job) -> str:
        async with self._performing:
            return await super().perform(job)


@mutant("PERF-8", base="net", quick=False)
class GivesALargeBatchMoreTime(NetDriver):
    """Gives the answer to a batch more time the larger it is, beyond what it states."""

    def patience(self, request: wire.AnyRequest) -> float | None:
        is_batch = isinstance(request, wire.Enqueue) and len(request.entries) > 100
        return 5 * self.timeout if is_batch else self.timeout


@mutant("PERF-8", base="net", quick=False)
class GivesWhatIsDueLaterMoreTime(NetDriver):
    """Tries again and again to store what is due later, since there is time until then."""

    async def enqueue(self, entries: Sequence[Entry]) -> None:
        for _ in range(4 if any(each.delay_ms for each in entries) else 0):
            with contextlib.suppress(BackendUnavailableError):
                return await super().enqueue(entries)
            await asyncio.sleep(2)
        return await super().enqueue(entries)
