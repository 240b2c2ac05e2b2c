"""Slips that show at the first use of a backend, and never again."""

from __future__ import annotations

from collections.abc import Sequence

from offload import Entry, Failure
from offload_mutants.registry import mutant
from offload_mutants.sql_driver import SqlDriver
from offload_mutants.sql_tables import SCHEMA

JOBS, LETTERS = SCHEMA.split("CREATE TABLE IF NOT EXISTS dead_letters")
LETTERS = "CREATE TABLE IF NOT EXISTS dead_letters" + LETTERS


@mutant("DEAD-1", "PERF-4", "CONC-2", base="sql")
class MakesItsLettersWhenOneDies(SqlDriver):
    """Makes the table of dead letters for the first of them; before, there is none to look at."""

    schema = JOBS.rstrip().removesuffix(";")

    def bury(self, receipt: object, failure: Failure) -> bool:
        self.db.execute(LETTERS)
        return super().bury(receipt, failure)


class MakesItsTablesLater(SqlDriver):
    """Makes them when it stores a job, or begins to consume."""

    def make_tables(self) -> None:
        """Not when it connects."""

    async def subscribe(self, queues: Sequence[str]) -> object:  # type: ignore[override]
        await self.call(super().make_tables)
        return await super().subscribe(queues)


@mutant("PERF-5", "PERF-4", "DEAD-1", base="sql")
class CopiesBatchesIn(MakesItsTablesLater):
    """Has another way in for batches, `COPY`, which makes no table where there is none."""

    def store(self, entries: Sequence[Entry]) -> None:
        if len(entries) == 1:
            super().make_tables()
        super().store(entries)


@mutant("PERF-5", "TIME-1", "PERF-4", "DEAD-1", base="sql")
class SchedulesWithAnotherStatement(MakesItsTablesLater):
    """Has a statement of its own for what is due later, and makes no table for that."""

    def store(self, entries: Sequence[Entry]) -> None:
        if not any(each.delay_ms for each in entries):
            SqlDriver.make_tables(self)
        super().store(entries)
