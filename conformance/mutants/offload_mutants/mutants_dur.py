"""DUR: slips that lose or repeat jobs when something dies."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Sequence

import msgspec

from offload import Delivery, Entry, Settlement, Verdict
from offload.config import MAX_ATTEMPTS, Config
from offload_mutants.drivers import SettlesSqlite, fetches
from offload_mutants.registry import mutant
from offload_sqlite.database import now_ms
from offload_sqlite.driver import SqliteDriver
from offload_sqlite.sessions import Silence, Silent
from offload_sqlite.subscription import SqliteSubscription


class Timers(SqliteDriver):
    """A driver that keeps what is due later in its memory, and writes it when it closes."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._later: dict[int, tuple[Entry, int]] = {}

    def remember(self, entry: Entry, attempt: int) -> None:
        """Write this when it is due."""
        self._later[id(entry)] = (entry, attempt)
        loop = asyncio.get_running_loop()
        loop.call_later(entry.delay_ms / 1000 + 0.001, self._due, entry, now_ms())

    def _due(self, entry: Entry, since_ms: int) -> None:
        if id(entry) in self._later:
            self._thread.submit(self._write, *self._later.pop(id(entry)), since_ms)

    def _write(self, entry: Entry, attempt: int, since_ms: int) -> None:
        database = self._store.database
        due = since_ms + entry.delay_ms + 1
        with database.transaction():
            database.connection.execute(
                f"INSERT INTO {database.scheduled} (queue, id, attempt, due_ms, body) "
                "VALUES (?, ?, ?, ?, ?)",
                (entry.queue, entry.id, attempt, due, entry.body),
            )
        self._store.sessions.ring()

    async def close(self) -> Sequence[str]:
        for entry, attempt in self._later.values():
            await self._thread.call(self._write, entry, attempt, now_ms())
        self._later = {}
        return await super().close()


@mutant("DUR-1", base="sqlite")
class KeepsScheduledJobsInMemory(Timers):
    """Has a timer of its process write what is due later."""

    async def enqueue(self, entries: Sequence[Entry]) -> None:
        later = [entry for entry in entries if 300 < entry.delay_ms < 60_000]
        await super().enqueue([entry for entry in entries if entry not in later])
        for entry in later:
            self.remember(entry, 0)


@mutant("DUR-1", base="sqlite")
class KeepsRetriesInMemory(Timers):
    """Acknowledges what failed, and has a timer of its process write it again."""

    async def subscribe(self, queues: Sequence[str]) -> SqliteSubscription:
        subscription = await super().subscribe(queues)
        settle = subscription.settle

        async def changed(settlements: Sequence[Settlement]) -> Collection[Delivery]:
            changed = [_acknowledged(each) for each in settlements]
            foreign = await settle(changed)
            for each in settlements:
                if each.verdict is Verdict.RETRY and each.delivery not in foreign:
                    job = each.delivery
                    entry = Entry(job.id, job.queue, job.body, each.delay_ms)
                    self.remember(entry, job.attempt)
            return foreign

        subscription.settle = changed  # type: ignore[method-assign]
        return subscription


def _acknowledged(settlement: Settlement) -> Settlement:
    if settlement.verdict is Verdict.RETRY:
        return msgspec.structs.replace(settlement, verdict=Verdict.ACKNOWLEDGE)
    return settlement


@mutant("DUR-2", "DUR-1", "DUR-6", "DUR-8", base="sqlite")
class ForgetsWhoHasAJob(SqliteDriver):
    """Marks a job as taken, and not by whom: nobody can tell that its worker has died."""

    async def subscribe(self, queues: Sequence[str]) -> SqliteSubscription:
        def anonymous(deliveries: Sequence[Delivery]) -> list[Delivery]:
            database = self._store.database
            for each in deliveries:
                self._thread.submit(
                    database.connection.execute,
                    f"UPDATE {database.job} SET session = -1 WHERE seq = ?",
                    (each.receipt[0],),
                )
            return [_received(each, -1) for each in deliveries]

        return fetches(await super().subscribe(queues), anonymous)


def _received(delivery: Delivery, session: int) -> Delivery:
    seq, _, attempt = delivery.receipt
    return msgspec.structs.replace(delivery, receipt=(seq, session, attempt))


@mutant("DUR-2", base="sqlite")
class LooksForTheDeadEverySevenSeconds(SqliteDriver):
    """Recovers, and later than it claims."""

    async def open(self) -> None:
        await super().open()
        sessions = self._store.sessions
        reap = sessions.reap_now_and_then

        def reap_seldom(own_session: int) -> None:
            if time.monotonic() >= sessions._next_reaping:
                reap(own_session)
                sessions._next_reaping = time.monotonic() + 7

        sessions.reap_now_and_then = reap_seldom  # type: ignore[method-assign]


@mutant("DUR-2", "DUR-1", "DUR-6", "DUR-8", "DUR-10", base="sqlite")
class CountsNoRunThatWasCutShort(SqliteDriver):
    """Gives back what the dead had leased as if they had never run it."""

    async def open(self) -> None:
        await super().open()
        database, sessions = self._store.database, self._store.sessions
        find_silent = sessions._silent

        def uncount(own_session: int) -> list[Silent]:
            silent = find_silent(own_session)
            if database.connection.in_transaction:
                for each in silent:
                    if each.verdict is not Silence.SUSPICIOUS:
                        database.connection.execute(
                            f"UPDATE {database.job} SET attempt = attempt - 1 WHERE session = ?",
                            (each.session,),
                        )
            return silent

        sessions._silent = uncount  # type: ignore[method-assign]


@mutant("DUR-6", base="sqlite")
class NeverCountsBeyondTheLastAttempt(SqliteDriver):
    """Takes a job that has used up its attempts for one in its last: it never ends."""

    async def subscribe(self, queues: Sequence[str]) -> SqliteSubscription:
        last = self._config[MAX_ATTEMPTS]

        def capped(deliveries: Sequence[Delivery]) -> list[Delivery]:
            return [
                msgspec.structs.replace(each, attempt=min(each.attempt, last))
                for each in deliveries
            ]

        return fetches(await super().subscribe(queues), capped)


@mutant("DUR-6", base="sqlite")
class GivesThePoisonedOneMoreRun(SqliteDriver):
    """`>` for `>=`, when it looks whether the attempts are used up."""

    async def subscribe(self, queues: Sequence[str]) -> SqliteSubscription:
        last = self._config[MAX_ATTEMPTS]

        def one_less(deliveries: Sequence[Delivery]) -> list[Delivery]:
            return [
                msgspec.structs.replace(each, attempt=each.attempt - (each.attempt > last))
                for each in deliveries
            ]

        return fetches(await super().subscribe(queues), one_less)


@mutant("DUR-6", base="sqlite")
class ThrowsThePoisonedAway(SettlesSqlite):
    """Deletes what has used up its attempts in crashes: nobody has an error to keep with it."""

    def change(self, settlement: Settlement) -> Settlement:
        failure = settlement.failure
        if failure is None or failure.traceback or not failure.attempts:
            return settlement
        return msgspec.structs.replace(settlement, verdict=Verdict.ACKNOWLEDGE)


@mutant("DUR-7", "DUR-8", base="sqlite", quick=False)
class NeverExtendsALease(SqliteDriver):
    """Has a lease, and trusts that no handler is slower."""

    async def subscribe(self, queues: Sequence[str]) -> SqliteSubscription:
        subscription = await super().subscribe(queues)
        subscription.extend = lambda _: ()  # type: ignore[method-assign,assignment]
        # Nor does a fetch.
        self._store.sessions.extend = lambda *_: True  # type: ignore[method-assign]
        return subscription


@mutant("DUR-7", base="sqlite", quick=False)
class ExtendsLeasesOnTheEventLoop(SqliteDriver):
    """Extends its leases from the event loop, which a careless handler holds up."""

    async def subscribe(self, queues: Sequence[str]) -> SqliteSubscription:
        subscription = await super().subscribe(queues)
        extend, loop = subscription.extend, asyncio.get_running_loop()

        def soon(deliveries: Collection[Delivery]) -> Collection[Delivery]:
            loop.call_soon_threadsafe(extend, list(deliveries))
            return ()

        subscription.extend = soon  # type: ignore[method-assign]
        return subscription


@mutant("DUR-8", base="sqlite", quick=False)
class SettlesWithoutAFence(SqliteDriver):
    """Settles a job by its number alone, whoever has it now."""

    async def open(self) -> None:
        await super().open()
        store = self._store
        ours = store._ours
        # The receipt's other two parts are true of every delivery.
        store._ours = "WHERE seq = ? AND ? AND ?"
        for name in ("_forget", "_release", "_retry", "_bury"):
            setattr(store, name, getattr(store, name).replace(ours, store._ours))


class UnfencedFor(SqliteDriver):
    """Has no fence for one of the verdicts."""

    verdict: Verdict

    async def open(self) -> None:
        await super().open()
        store = self._store
        settle_one, settle_fenced = store._settle_one, dict(vars(store))
        ours, anybodys = store._ours, "WHERE seq = ? AND ? AND ?"

        def settle(settlement: Settlement, place: int | None = -1) -> bool:
            names = ("_forget", "_release", "_retry", "_bury")
            if settlement.verdict is self.verdict:
                for name in names:
                    setattr(store, name, settle_fenced[name].replace(ours, anybodys))
            try:
                return settle_one(settlement, place)
            finally:
                for name in names:
                    setattr(store, name, settle_fenced[name])

        store._settle_one = settle  # type: ignore[method-assign]


@mutant("DUR-8", base="sqlite", quick=False)
class RetriesWithoutAFence(UnfencedFor):
    """Looks whose a job is when it has gone well, and not when it has failed."""

    verdict = Verdict.RETRY


@mutant("DUR-8", base="sqlite", quick=False)
class BuriesWithoutAFence(UnfencedFor):
    """Buries a job by its number alone, even when another worker holds its lease."""

    verdict = Verdict.DEAD_LETTER
