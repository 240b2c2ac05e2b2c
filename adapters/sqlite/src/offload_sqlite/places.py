"""The numbers that keep rows in order, and those that another program gave out far ahead."""

from __future__ import annotations

import logging

from offload_sqlite.database import Database
from offload_sqlite.errors import FarPlaceError, IgnoredError, UndoneError, concerns_one_row

log = logging.getLogger("offload")

LAST_PLACE = 1 << 48
"""No table comes so far by itself: 50,000 jobs a second take 178 years."""
AT_ONCE = 1000
"""How many rows are moved in one transaction, so that none is long."""


class Places:
    """Sees to it that there is room behind the last row.

    Behind a row with the greatest number, SQLite puts what is stored next
    anywhere, and the order is lost. Such rows are moved to where the others end.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._left: set[tuple[str, int]] = set()
        """Those that can't be moved, since a trigger forbids it, for example."""

    def check(self, table: str, seq: int) -> None:
        """Look at the number of a row that was stored or leased.

        Raises:
            FarPlaceError: undo the transaction, call `draw_in`, and do it again.
        """
        if seq > LAST_PLACE and (table, seq) not in self._left:
            raise FarPlaceError(f"row {seq} of {table} is far behind all others")

    def draw_in(self) -> None:
        """Move far rows of both tables, if there are any, in transactions of its own."""
        for table in (self._database.job, self._database.scheduled):
            query = f"SELECT max(seq) FROM {table}"
            (last,) = self._database.connection.execute(query).fetchone()
            if last is not None and last > LAST_PLACE:
                self._draw_in(table)

    def _draw_in(self, table: str) -> None:
        database = self._database
        while True:
            try:
                with database.transaction():
                    moved = self._move(table)
            except UndoneError:
                continue  # without the row that undid it
            if moved:
                line = "%d rows of %s, which another program put far behind, now follow the others"
                log.warning(line, moved, table)
            return

    def _move(self, table: str) -> int:
        execute = self._database.connection.execute
        query = f"SELECT max(0, max(seq)) FROM {table} WHERE seq <= {LAST_PLACE}"
        last = execute(query).fetchone()[0] or 0
        moved = 0
        for seq in self._far(table):
            if last + moved == LAST_PLACE:
                break  # no room before it, and none is needed: numbers go on behind it
            try:
                with self._database.savepoint():
                    self._renumber(table, seq, last + moved + 1)
            except Exception as error:
                self._leave(table, seq, error)
            else:
                moved += 1
        return moved

    def _renumber(self, table: str, seq: int, place: int) -> None:
        update = f"UPDATE {table} SET seq = ? WHERE seq = ?"
        if self._database.connection.execute(update, (place, seq)).rowcount != 1:
            raise IgnoredError("a trigger keeps it from being moved")

    def _leave(self, table: str, seq: int, error: Exception) -> None:
        if not concerns_one_row(error):
            raise error
        self._left.add((table, seq))
        line = "row %d of %s is far behind, and can't be moved; others may run in any order: %r"
        log.warning(line, seq, table, error)
        if isinstance(error, UndoneError):
            raise error

    def _far(self, table: str) -> list[int]:
        """Far rows that may be moved, in order: a leased one is known by its number."""
        free = "session = 0 AND " if table == self._database.job else ""
        query = (
            f"SELECT seq FROM {table} WHERE {free}seq > {LAST_PLACE} "
            f"ORDER BY due_ms, seq LIMIT {AT_ONCE}"
        )
        rows = self._database.connection.execute(query).fetchall()
        return [seq for (seq,) in rows if (table, seq) not in self._left]
