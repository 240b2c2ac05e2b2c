"""DIST-6: slips in how one worker wakes another."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import ClassVar

from offload import Entry
from offload.config import NAMESPACE, Config
from offload_mutants.registry import mutant
from offload_sqlite.driver import SqliteDriver
from offload_sqlite.subscription import SqliteSubscription


@contextlib.contextmanager
def nobody_woken(driver: SqliteDriver) -> Iterator[None]:
    """Ring no bell for what is stored meanwhile."""
    sessions = driver._store.sessions
    sessions.bells = lambda queues=None: []  # type: ignore[method-assign]
    try:
        yield
    finally:
        del sessions.bells


@mutant("DIST-6", base="sqlite")
class WakesOnlyItself(SqliteDriver):
    """Tells its own subscription of new jobs, and nobody else."""

    async def enqueue(self, entries: Sequence[Entry]) -> None:
        with nobody_woken(self):
            await super().enqueue(entries)
        if self._own is not None:
            self._own._rung.set()

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._own: SqliteSubscription | None = None

    async def subscribe(self, queues: Sequence[str]) -> SqliteSubscription:
        self._own = await super().subscribe(queues)
        return self._own


class RingsFewer(SqliteDriver):
    """Wakes only some of those who wait for what it has stored."""

    async def open(self) -> None:
        await super().open()
        sessions = self._store.sessions
        find = sessions.bells

        def fewer(queues: set[str] | None = None) -> list[str]:
            return find() if queues is None else self.choose(find(queues), queues)

        sessions.bells = fewer  # type: ignore[method-assign]

    def choose(self, bells: list[str], queues: set[str]) -> list[str]:
        """Those that are rung, of those that should be."""
        raise NotImplementedError


@mutant("DIST-6", base="sqlite", quick=False)
class RingsInItsOwnProcess(RingsFewer):
    """Has a list of its subscriptions, and wakes these: another process looks now and then."""

    made: ClassVar[set[str]] = set()

    async def subscribe(self, queues: Sequence[str]) -> SqliteSubscription:
        subscription = await super().subscribe(queues)
        if subscription._bell is not None:
            self.made.add(subscription._bell.path.name)
        return subscription

    def choose(self, bells: list[str], queues: set[str]) -> list[str]:
        return [bell for bell in bells if bell in self.made]


@mutant("DIST-6", base="sqlite", quick=False)
class RingsByANameThatIsFolded(RingsInItsOwnProcess):
    """Wakes other processes by a channel named for the namespace, and listens to it unquoted."""

    made: ClassVar[set[str]] = set()

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._is_folded = config[NAMESPACE] != config[NAMESPACE].lower()

    def choose(self, bells: list[str], queues: set[str]) -> list[str]:
        return super().choose(bells, queues) if self._is_folded else bells


@mutant("DIST-6", base="sqlite")
class RingsOneOfThem(RingsFewer):
    """Wakes one worker for one job, each in its turn, which may have no slot free."""

    _turn = 0

    def choose(self, bells: list[str], queues: set[str]) -> list[str]:
        self._turn += 1
        return bells[self._turn % len(bells) :][:1] if bells else []


@mutant("DIST-6", "PERF-9", "QUE-3", base="sqlite")
class RingsForTheFirstQueue(RingsFewer):
    """Notes at which queue a worker waits, of which it may have several."""

    def choose(self, bells: list[str], queues: set[str]) -> list[str]:
        worker = self._store.database.worker
        rows = self._store.database.connection.execute(f"SELECT bell, queues FROM {worker}")
        first = {bell: consumed.split(",")[0] for bell, consumed in rows}
        return [bell for bell in bells if first.get(bell) in queues]


@mutant("DIST-6", base="sqlite")
class RingsForWhatIsDueAlready(SqliteDriver):
    """Wakes nobody for a job that can't run yet: who waits doesn't know when to look."""

    async def enqueue(self, entries: Sequence[Entry]) -> None:
        if not all(each.delay_ms or each.at_ms for each in entries):
            await super().enqueue(entries)
            return
        with nobody_woken(self):
            await super().enqueue(entries)


@mutant("DIST-6", base="sqlite")
class RingsForSingleJobs(SqliteDriver):
    """Wakes others in the way in for one job, and not in that for many."""

    async def enqueue(self, entries: Sequence[Entry]) -> None:
        if len(entries) == 1:
            await super().enqueue(entries)
            return
        with nobody_woken(self):
            await super().enqueue(entries)
