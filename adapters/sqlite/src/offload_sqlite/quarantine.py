"""Rows that another program wrote and no worker can run: put aside among the dead letters."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from contextlib import suppress

from offload_sqlite.database import Database, now_ms
from offload_sqlite.errors import AnyRowError, IgnoredError, UndoneError, concerns_one_row
from offload_sqlite.rows import LATEST_MS, any_text, faults, is_good

log = logging.getLogger("offload")

_FAR_PLACE = 10_000_000_000_000_000
AT_ONCE = 100
"""How many scheduled rows are put aside in one transaction, so that none is long."""


def next_place(dead: str) -> str:
    """An SQL expression: the number of the next dead letter.

    Its parameter is the clock in microseconds, so that no place in their order
    is ever taken twice; or None, for any number that is free. Numbers that the
    clock reaches in some centuries are another program's, and don't count.
    """
    return f"max(?, 1 + (SELECT coalesce(max(seq), 0) FROM {dead} WHERE seq < {_FAR_PLACE}))"


class Quarantine:
    """Moves single rows to the dead letters."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._stuck: dict[str, dict[int, object]] = {database.job: {}, database.scheduled: {}}
        """By table, the rows that can't even be moved, and their ids."""

    def free_of(self, table: str) -> str:
        """An SQL condition that leaves out the rows that are stuck."""
        stuck = self._stuck[table]
        return f"seq NOT IN ({','.join(map(str, stuck))})" if stuck else "1"

    def put_aside(
        self,
        table: str,
        seq: int,
        error: Exception | None = None,
        again: Callable[[int], object] | None = None,
    ) -> None:
        """Move a row as it is, inside a transaction, and log what is wrong with it.

        Args:
            error: what handling it has raised; it is raised again if it isn't the row's fault.
            again: does the same with the row of another number.

        Raises:
            AnyRowError: it isn't the row's fault, since one that was made up fails likewise.
            UndoneError: the transaction is over; the next ones leave the row out.
        """
        if error is not None:
            if not concerns_one_row(error):
                raise error
            if again is not None:
                self._check_with_another(table, seq, error, again)
        try:
            reason = self._move(table, seq, error)
        except Exception as why:
            if not concerns_one_row(why):
                raise
            self.leave(table, seq)
            log.warning("row %d of %s is no job, and can't be put aside: %r", seq, table, why)
            if isinstance(why, UndoneError):
                raise
        else:
            log.error("row %d of %s is now a dead letter: %s", seq, table, reason)

    def leave(self, table: str, seq: int) -> None:
        """Leave this row out, as long as it is there."""
        self._stuck[table][seq] = self._id_of(table, seq)

    def look_again(self) -> None:
        """Another row may have the number of one that was left out, and is gone."""
        for table, stuck in self._stuck.items():
            for seq, job_id in list(stuck.items()):
                if self._id_of(table, seq) != job_id:
                    del stuck[seq]

    def _id_of(self, table: str, seq: int) -> object:
        with any_text(self._database.connection):
            query = f"SELECT substr(id, 1, 2000) FROM {table} WHERE seq = ?"
            found = self._database.connection.execute(query, (seq,)).fetchone()
        return found and found[0]

    def _check_with_another(
        self, table: str, seq: int, error: Exception, again: Callable[[int], object]
    ) -> None:
        """Do the same with a good row, which is taken out again.

        Raises:
            AnyRowError: it fails, too.
        """
        connection = self._database.connection
        was_in_transaction = connection.in_transaction
        connection.execute("SAVEPOINT control")
        try:
            if self._fails_likewise(table, seq, error, again):
                raise AnyRowError(f"{self._database.path}: no row can be used: {error!r}")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK TO control")
                connection.execute("RELEASE control")
            elif was_in_transaction:
                raise UndoneError("a trigger has rolled the transaction back")

    def _fails_likewise(
        self, table: str, seq: int, error: Exception, again: Callable[[int], object]
    ) -> bool:
        copy = (
            f"INSERT INTO {table} (queue, id, due_ms, body) "
            f"SELECT queue, ?, ?, x'7b7d' FROM {table} WHERE seq = ?"
        )
        values = (f"control-{secrets.token_hex(8)}", now_ms(), seq)
        try:
            control = self._database.connection.execute(copy, values).lastrowid or 0
        except Exception:
            return False  # then this row can't tell
        try:
            again(control)
        except Exception as failure:
            same = (type(error), str(error)) == (type(failure), str(failure))
            return same or isinstance(error, UndoneError)
        return False

    def _move(self, table: str, seq: int, error: Exception | None) -> str:
        """Move it to the dead letters, and return why."""
        if isinstance(error, UndoneError):
            raise error  # there is no transaction in which it could be moved
        with self._database.savepoint():
            reason = self._bury(table, seq, error)
            self._delete(table, seq)
        return reason

    def _bury(self, table: str, seq: int, error: Exception | None) -> str:
        row = self._look(table, seq)
        reason = f"not a job: {faults(row) or f'it could not be leased: {error!r}'}"
        database = self._database
        database.connection.execute(
            f"INSERT INTO {database.dead} "
            "(seq, queue, id, attempts, died_ms, error, traceback, body) "
            f"SELECT {next_place(database.dead)}, coalesce(queue, ''), ?, ?, ?, ?, '', "
            f"coalesce(body, x'') FROM {table} WHERE seq = ?",
            (
                now_ms() * 1000,
                self._own_id(row["id"]),
                row["attempt"] if is_good("attempt", row["attempt"]) else 0,
                now_ms(),
                reason,
                seq,
            ),
        )
        return reason

    def _delete(self, table: str, seq: int) -> None:
        delete = f"DELETE FROM {table} WHERE seq = ?"
        if self._database.connection.execute(delete, (seq,)).rowcount != 1:
            raise IgnoredError("a trigger keeps it from being deleted")

    def _look(self, table: str, seq: int) -> dict[str, object]:
        """What the row holds, but for the body; of a long value its beginning."""
        columns = ("id", "queue", "attempt", "due_ms")
        begins = ", ".join(
            f"CASE typeof({each}) WHEN 'blob' THEN substr({each}, 1, 2000) "
            # By bytes: by characters it would end at a NUL, and an id be taken for another.
            f"WHEN 'text' THEN CAST(substr(CAST({each} AS BLOB), 1, 8000) AS TEXT) "
            f"ELSE {each} END"
            for each in columns
        )
        connection = self._database.connection
        with any_text(connection):
            found = connection.execute(f"SELECT {begins} FROM {table} WHERE seq = ?", (seq,))
            return dict(zip(columns, found.fetchone(), strict=True))

    def _own_id(self, found: object) -> str:
        """The id of the row, if it can be that of a dead letter, or else a new one."""
        if is_good("id", found):
            query = f"SELECT 1 FROM {self._database.dead} WHERE id = ?"
            if self._database.connection.execute(query, (found,)).fetchone() is None:
                return str(found)
        return f"unreadable-{secrets.token_hex(8)}"

    def put_scheduled_aside(self) -> None:
        """Move what is scheduled for no time at all, or one beyond every calendar."""
        database = self._database
        query = (
            f"SELECT seq FROM {database.scheduled} WHERE (due_ms > {LATEST_MS} OR due_ms IS NULL) "
            f"AND {self.free_of(database.scheduled)} LIMIT {AT_ONCE}"
        )
        if database.connection.execute(query).fetchone() is None:
            return
        with suppress(UndoneError), database.transaction():
            for (seq,) in database.connection.execute(query).fetchall():
                self.put_aside(database.scheduled, seq)
