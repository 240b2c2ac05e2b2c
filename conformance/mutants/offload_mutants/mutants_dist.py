"""DIST: slips between processes."""

from __future__ import annotations

import contextlib
import time
import zlib
from collections.abc import Sequence
from typing import Any

import msgspec

from offload import Delivery, Entry, Fetched, Job, StoredDeadLetter, UnknownHandlerError
from offload.config import NAMESPACE, Config
from offload.job import NAME_PATTERN
from offload_mutants.drivers import fetches
from offload_mutants.registry import mutant
from offload_mutants.wrapper import Wrapper
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


@mutant("DIST-4", base="sqlite")
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


@mutant("DIST-5", base="sqlite")
class CutsNamespacesShort(SqliteDriver):
    """Keeps the first sixteen characters of a namespace."""

    def __init__(self, config: Config) -> None:
        values = {**config._values, NAMESPACE.name: config[NAMESPACE][:16]}
        super().__init__(Config(config.address, values))


@mutant("DIST-6", base="sqlite")
class WakesOnlyItself(SqliteDriver):
    """Tells its own subscription of new jobs, and nobody else."""

    async def enqueue(self, entries: Sequence[Entry]) -> None:
        sessions = self._store.sessions
        sessions.bells = lambda queues=None: []  # type: ignore[method-assign]
        try:
            await super().enqueue(entries)
        finally:
            del sessions.bells
        if self._own is not None:
            self._own._rung.set()

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._own: SqliteSubscription | None = None

    async def subscribe(self, queues: Sequence[str]) -> SqliteSubscription:
        self._own = await super().subscribe(queues)
        return self._own
