"""An adapter over plain SQL, and right: the kit must pass it."""

from __future__ import annotations

from offload_mutants.registry import benign
from offload_mutants.sql_driver import SqlDriver


@benign("PERF", "DUR", "DIST", "FIFO", base="sql", quick=False)
class KeepsJobsInTables(SqlDriver):
    """Polls two tables of one file."""
