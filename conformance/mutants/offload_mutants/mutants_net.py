"""LIFE-4, PERF-8, DUR-3 to DUR-5: slips that show when a backend or the way to it is away."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

from offload import BackendUnavailableError, Entry, State
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
