"""DIST-5: slips that let namespaces see each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from offload import Delivery, Entry, QueueCounts, StoredDeadLetter
from offload.config import NAMESPACE, Config
from offload_mutants.drivers import fetches
from offload_mutants.registry import mutant
from offload_sqlite.driver import SqliteDriver
from offload_sqlite.subscription import SqliteSubscription


def called(config: Config, namespace: str) -> Config:
    """The config with another namespace."""
    return Config(config.address, {**config._values, NAMESPACE.name: namespace})


@mutant("DIST-5", base="sqlite")
class CutsNamespacesShort(SqliteDriver):
    """Keeps the first sixteen characters of a namespace."""

    def __init__(self, config: Config) -> None:
        super().__init__(called(config, config[NAMESPACE][:16]))


@mutant("DIST-5", "DUR-10", base="sqlite")
class TakesUnderscoresForDashes(SqliteDriver):
    """Makes a name that its backend takes of every namespace, and the same one of two."""

    def __init__(self, config: Config) -> None:
        super().__init__(called(config, config[NAMESPACE].replace("-", "_")))


@mutant("DIST-5", "DUR-10", base="sqlite")
class BuriesAllInOneTable(SqliteDriver):
    """Has one list of dead letters for the whole database, since an operator wants to see all."""

    async def open(self) -> None:
        await super().open()
        store, database = self._store, self._store.database
        own, database.dead = database.dead, '"dead_letters_dead"'
        store._bury = store._bury.replace(own, database.dead)
        await self._thread.call(self._make)

    def _make(self) -> None:
        connection = self._store.database.connection
        connection.execute(
            f"CREATE TABLE IF NOT EXISTS {self._store.database.dead} (seq INTEGER PRIMARY KEY, "
            "queue TEXT, id TEXT, attempts INTEGER, died_ms INTEGER, error TEXT, traceback TEXT, "
            "body BLOB)"
        )


@mutant("DIST-5", "FAIL-8", "DIST-4", "DUR-10", base="sqlite")
class JoinsNamespaceAndQueue(SqliteDriver):
    """Puts a dash between namespace and queue, both of which may have one."""

    def __init__(self, config: Config) -> None:
        super().__init__(called(config, "all"))
        self._before = f"{config[NAMESPACE]}-"

    def _is_own(self, queue: str) -> bool:
        return queue.startswith(self._before)

    async def enqueue(self, entries: Sequence[Entry]) -> None:
        await super().enqueue(
            [msgspec.structs.replace(each, queue=self._before + each.queue) for each in entries]
        )

    async def subscribe(self, queues: Sequence[str]) -> SqliteSubscription:
        def without(deliveries: Sequence[Delivery]) -> list[Delivery]:
            return [
                msgspec.structs.replace(each, queue=each.queue.removeprefix(self._before))
                for each in deliveries
            ]

        names = [self._before + queue for queue in queues]
        return fetches(await super().subscribe(names), without)

    async def counts(self) -> Mapping[str, QueueCounts]:
        return {
            queue.removeprefix(self._before): counts
            for queue, counts in (await super().counts()).items()
            if self._is_own(queue)
        }

    async def list_dead(self, limit: int, after: str | None) -> Sequence[StoredDeadLetter]:
        letters = await super().list_dead(100_000, after)
        own = [self._shown(each) for each in letters if self._is_own(each.queue)]
        return own[:limit]

    async def show_dead(self, job_id: str) -> StoredDeadLetter | None:
        letter = await super().show_dead(job_id)
        return self._shown(letter) if letter and self._is_own(letter.queue) else None

    def _shown(self, letter: StoredDeadLetter) -> StoredDeadLetter:
        return msgspec.structs.replace(letter, queue=letter.queue.removeprefix(self._before))
