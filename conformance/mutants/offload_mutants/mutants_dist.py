"""DIST: slips between processes; see also `mutants_bells` and `mutants_namespaces`."""

from __future__ import annotations

import contextlib
import time
import zlib
from collections.abc import Sequence
from typing import Any

import msgspec

from offload import (
    Delivery,
    Entry,
    Fetched,
    Job,
    Settlement,
    State,
    StoredDeadLetter,
    UnknownHandlerError,
    UsageError,
    Verdict,
    envelope,
)
from offload.config import NAMESPACE, Config
from offload.job import NAME_PATTERN
from offload.validation import check_job
from offload_mutants.drivers import fetches
from offload_mutants.registry import mutant
from offload_mutants.wrapper import Wrapper
from offload_sqlite.database import now_ms
from offload_sqlite.driver import SqliteDriver
from offload_sqlite.subscription import SqliteSubscription


@mutant("DIST-1", "DIST-3", "PERF-1", base="sqlite")
class LooksBeforeItLocks(SqliteDriver):
    """Reads what waits, and then marks it as taken, whoever was faster."""

    async def open(self) -> None:
        await super().open()
        store = self._store
        fetch, connection, job = store.fetch, store.database.connection, store.database.job

        def careless(session: int, queues: Sequence[str], limit: int) -> Fetched:
            rows = connection.execute(
                f"SELECT seq, id, attempt + 1, due_ms, body FROM {job} "
                "WHERE session = 0 AND queue = ? ORDER BY seq LIMIT ?",
                (queues[0], limit),
            ).fetchall()
            if len(queues) > 1 or not rows:
                return fetch(session, queues, limit)
            time.sleep(0.002)
            with store.database.errors(), store.database.transaction():
                connection.executemany(
                    f"UPDATE {job} SET session = ?, attempt = attempt + 1 WHERE seq = ?",
                    [(session, seq) for seq, *_ in rows],
                )
            return Fetched(
                [
                    Delivery(job_id, queues[0], body, attempt, due, (seq, session, attempt))
                    for seq, job_id, attempt, due, body in rows
                ]
            )

        store.fetch = careless  # type: ignore[method-assign]


@mutant("DIST-1", base="sqlite")
class MakesATableUnderNoLock(SqliteDriver):
    """Looks whether its table is there, and makes it if not: two that look at once both do."""

    async def open(self) -> None:
        await super().open()
        await self._thread.call(self._make)

    def _make(self) -> None:
        connection, name = self._store.database.connection, f"{self._prefix}_settings"
        query = "SELECT 1 FROM sqlite_schema WHERE name = ?"
        if connection.execute(query, (name,)).fetchone() is None:
            time.sleep(0.002)
            connection.execute(f'CREATE TABLE "{name}" (name, value)')


@mutant("DIST-2", "PERF-6", base="sqlite")
class RefusesHandlersOfOthers(Wrapper):
    """Performs only what it could run itself."""

    base = "sqlite"

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._names: set[str] = set()

    def register(self, name: str, handler: Any, **options: Any) -> None:
        super().register(name, handler, **options)
        self._names.add(name)

    async def perform(self, job: Job) -> str:
        named = (
            isinstance(job, Job)
            and isinstance(job.handler, str)
            and NAME_PATTERN.fullmatch(job.handler)
        )
        if named and job.handler not in self._names:
            raise UnknownHandlerError(f"handler {job.handler!r} is not registered")
        return await super().perform(job)


@mutant("DIST-2", "PERF-5", "PERF-6", base="sqlite")
class PerformsOnlyOnceStarted(Wrapper):
    """Has its connection made by start alone."""

    base = "sqlite"

    async def perform(self, job: Job) -> str:
        if self.state is State.NEW:
            check_job(job, self.limits)
            raise UsageError("start the worker before you perform")
        return await super().perform(job)


@mutant("DIST-2", "PERF-1", "PERF-6", "DUR-1", base="sqlite")
class SendsWhenItHasStarted(SqliteDriver):
    """Collects what is performed for a task that sends it, and that start begins."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._unsent: list[Entry] = []
        self._is_sending = False

    async def enqueue(self, entries: Sequence[Entry]) -> None:
        if self._is_sending:
            await super().enqueue(entries)
        else:
            self._unsent += entries

    async def subscribe(self, queues: Sequence[str]) -> SqliteSubscription:
        self._is_sending = True
        while self._unsent:
            await super().enqueue([self._unsent.pop(0)])
        return await super().subscribe(queues)


@mutant("DIST-3", "CONC-4", "FIFO-1", "FIFO-2", base="sqlite")
class SharesJobsOutByTheirNumbers(SqliteDriver):
    """Gives each worker the jobs whose number falls to it, so that no two want the same."""

    async def open(self) -> None:
        await super().open()
        store, database = self._store, self._store.database

        def lease_from(session: int, queue: str, limit: int) -> list[Delivery]:
            query = f"SELECT session FROM {database.worker} WHERE queues = ? ORDER BY session"
            own = (",".join(self._queues),)
            crew = [each for (each,) in database.connection.execute(query, own)]
            mine = (
                f"seq IN (SELECT seq FROM {database.job} WHERE session = 0 AND queue = ? "
                "AND seq % ? = ? ORDER BY seq LIMIT ?)"
            )
            share = (queue, max(1, len(crew)), crew.index(session) if session in crew else 0)
            return store._lease_where(session, queue, mine, (*share, limit), limit)

        store._lease_from = lease_from  # type: ignore[method-assign]

    async def subscribe(self, queues: Sequence[str]) -> SqliteSubscription:
        self._queues = queues
        return await super().subscribe(queues)


@mutant("DIST-3", "CONC-4", base="sqlite")
class HasOneConsumerAtATime(SqliteDriver):
    """Keeps the order by letting one worker of these queues consume, as long as it lives."""

    async def open(self) -> None:
        await super().open()
        store, database = self._store, self._store.database
        fetch, leader = store.fetch, f'"{self._config[NAMESPACE]}_leader"'

        def if_it_leads(session: int, queues: Sequence[str], limit: int) -> Fetched:
            key = ",".join(queues)
            with database.errors(), database.transaction():
                run = database.connection.execute
                run(f"CREATE TABLE IF NOT EXISTS {leader} (queues UNIQUE, session)")
                run(
                    f"DELETE FROM {leader} WHERE session NOT IN "
                    f"(SELECT session FROM {database.worker})"
                )
                run(f"INSERT OR IGNORE INTO {leader} VALUES (?, ?)", (key, session))
                query = f"SELECT session FROM {leader} WHERE queues = ?"
                (leads,) = run(query, (key,)).fetchone()
            if leads == session:
                return fetch(session, queues, limit)
            with database.errors():
                store.sessions.reap_now_and_then(session)
            return Fetched([], 50)

        store.fetch = if_it_leads  # type: ignore[method-assign]


@mutant("DIST-4", "DUR-10", base="sqlite")
class ReadsOnlyItsNewFormat(SqliteDriver):
    """Compresses what it stores, and has forgotten what releases before it have stored."""

    async def enqueue(self, entries: Sequence[Entry]) -> None:
        await super().enqueue(
            [msgspec.structs.replace(each, body=zlib.compress(each.body, 1)) for each in entries]
        )

    async def subscribe(self, queues: Sequence[str]) -> SqliteSubscription:
        def unpacked(deliveries: Sequence[Delivery]) -> list[Delivery]:
            return [msgspec.structs.replace(each, body=_unpack(each.body)) for each in deliveries]

        return fetches(await super().subscribe(queues), unpacked)

    async def list_dead(self, limit: int, after: str | None) -> Sequence[StoredDeadLetter]:
        letters = await super().list_dead(limit, after)
        return [msgspec.structs.replace(each, body=_unpack(each.body)) for each in letters]

    async def show_dead(self, job_id: str) -> StoredDeadLetter | None:
        letter = await super().show_dead(job_id)
        return letter and msgspec.structs.replace(letter, body=_unpack(letter.body))


def _unpack(body: bytes) -> bytes:
    with contextlib.suppress(zlib.error):
        return zlib.decompress(body)
    return b""


@mutant("DIST-4", "DUR-10", base="sqlite")
class ReadsOnlyWhatIsSigned(SqliteDriver):
    """Puts a checksum behind what it stores, which nothing had that was stored before."""

    async def enqueue(self, entries: Sequence[Entry]) -> None:
        await super().enqueue(
            [
                msgspec.structs.replace(each, body=each.body + zlib.crc32(each.body).to_bytes(4))
                for each in entries
            ]
        )

    async def subscribe(self, queues: Sequence[str]) -> SqliteSubscription:
        def checked(deliveries: Sequence[Delivery]) -> list[Delivery]:
            return [msgspec.structs.replace(each, body=_checked(each.body)) for each in deliveries]

        return fetches(await super().subscribe(queues), checked)

    async def list_dead(self, limit: int, after: str | None) -> Sequence[StoredDeadLetter]:
        letters = await super().list_dead(limit, after)
        return [msgspec.structs.replace(each, body=_checked(each.body)) for each in letters]

    async def show_dead(self, job_id: str) -> StoredDeadLetter | None:
        letter = await super().show_dead(job_id)
        return letter and msgspec.structs.replace(letter, body=_checked(letter.body))


def _checked(body: bytes) -> bytes:
    return body[:-4] if zlib.crc32(body[:-4]).to_bytes(4) == body[-4:] else b""


@mutant("DIST-4", base="sqlite")
class DropsWhatIsAMonthOld(SqliteDriver):
    """Takes what was performed a month ago for something that nobody waits for any more."""

    async def subscribe(self, queues: Sequence[str]) -> SqliteSubscription:
        subscription = await super().subscribe(queues)

        def recent(deliveries: Sequence[Delivery]) -> list[Delivery]:
            old = [each for each in deliveries if _is_a_month_old(each.body)]
            dropped = [Settlement(each, Verdict.ACKNOWLEDGE) for each in old]
            self._thread.submit(self._store.settle, dropped)
            return [each for each in deliveries if each not in old]

        return fetches(subscription, recent)


def _is_a_month_old(body: bytes) -> bool:
    with contextlib.suppress(envelope.UndecodableError):
        return envelope.decode(body).enqueued_ms < now_ms() - 30 * 86_400_000
    return False
