"""DUR-10: slips of a release that comes after another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from offload import Delivery, Entry
from offload_mutants.registry import mutant
from offload_mutants.sql_driver import SqlDriver
from offload_sqlite.bell import Life
from offload_sqlite.driver import SqliteDriver
from offload_sqlite.store import Store


class HasAColumnMore(SqlDriver):
    """Adds a column to the jobs of whoever was there before."""

    column = ""

    def make_tables(self) -> None:
        super().make_tables()
        with self.transaction():
            columns = [name for _, name, *_ in self.db.execute("PRAGMA table_info(jobs)")]
            if self.column.split()[0] not in columns:
                self.db.execute(f"ALTER TABLE jobs ADD COLUMN {self.column}")


@mutant("DUR-10", "DIST-4", "FAIL-8", base="sql")
class TakesRowsOfItsOwnVersion(HasAColumnMore):
    """Marks its rows with the version of its tables, so that no older release takes them for its
    own, and asks for those of its version alone."""

    column = "version INTEGER NOT NULL DEFAULT 1"
    of_queue = "version = 2 AND namespace = ? AND queue = ?"

    def store(self, entries: Sequence[Entry]) -> None:
        super().store(entries)
        self.mark([each.id for each in entries])

    def requeue_one(self, job_id: str) -> bool:
        is_there = super().requeue_one(job_id)
        self.mark([job_id])
        return is_there

    def mark(self, ids: Sequence[str]) -> None:
        update = "UPDATE jobs SET version = 2 WHERE id = ?"
        self.db.executemany(update, [(each,) for each in ids])


@mutant("DUR-10", base="sql")
class CountsRunsInANewColumn(HasAColumnMore):
    """Tells runs that count from those that a stop gave back, in a column that begins with 0."""

    column = "runs INTEGER NOT NULL DEFAULT 0"

    def claim(self, owner: str, queue: str, limit: int) -> list[Delivery]:
        return [self.counted(each) for each in super().claim(owner, queue, limit)]

    def counted(self, delivery: Delivery) -> Delivery:
        update = "UPDATE jobs SET runs = runs + 1 WHERE seq = ? RETURNING runs"
        (runs,) = self.db.execute(update, delivery.receipt[:1]).fetchone()
        return msgspec.structs.replace(delivery, attempt=runs)

    def release(self, receipt: Any) -> bool:
        self.changes(f"UPDATE jobs SET runs = runs - 1 WHERE {self.fence}", receipt)
        return super().release(receipt)

    def release_all(self, owner: str) -> None:
        self.db.execute("UPDATE jobs SET runs = runs - 1 WHERE owner = ?", (owner,))
        super().release_all(owner)


@mutant("DUR-10", base="sqlite")
class SchedulesInANewTable(SqliteDriver):
    """Gives the table of what is due later another name, and never looks into the old one."""

    async def open(self) -> None:
        await super().open()
        await self._thread.call(self._rename)

    def _rename(self) -> None:
        database = self._store.database
        with database.errors():
            database.scheduled = f'"{self._prefix}_later"'
            database.connection.execute(
                f"CREATE TABLE IF NOT EXISTS {database.scheduled} (seq INTEGER PRIMARY KEY, queue, "
                "id, attempt DEFAULT 0, due_ms, body)"
            )
        self._store = Store(database)


@mutant("DUR-10", base="sqlite")
class TakesBackWhatItKnowsToBeDead(SqliteDriver):
    """Takes back from a worker whose process is gone, or is silent; of one that has no bell it
    can't tell, and hands that over to nobody."""

    async def open(self) -> None:
        await super().open()
        sessions = self._store.sessions
        has_lapsed = sessions._has_lapsed

        def surely(expires: object, life: Life) -> bool:
            return life is not Life.UNKNOWN and has_lapsed(expires, life)

        sessions._has_lapsed = surely  # type: ignore[method-assign]
