"""The jobs that failed for good."""

from __future__ import annotations

from collections.abc import Sequence

from offload import Failure, StoredDeadLetter, UsageError
from offload_sqlite.database import Database, now_ms
from offload_sqlite.sessions import Sessions


class DeadLetterTable:
    """The table of dead letters."""

    def __init__(self, database: Database, sessions: Sessions) -> None:
        self._database = database
        self._sessions = sessions

    def page(self, limit: int, after: str | None) -> list[StoredDeadLetter]:
        """Up to `limit`, the oldest first, behind the place `after`."""
        return self._select("WHERE seq > ? ORDER BY seq LIMIT ?", (_place(after), limit))

    def show(self, job_id: str) -> StoredDeadLetter | None:
        """The one with this id."""
        found = self._select("WHERE id = ?", (job_id,))
        return found[0] if found else None

    def _select(self, where: str, values: tuple[object, ...]) -> list[StoredDeadLetter]:
        database = self._database
        with database.errors():
            rows = database.connection.execute(
                "SELECT seq, id, queue, body, died_ms, error, traceback, attempts "
                f"FROM {database.dead} {where}",
                values,
            ).fetchall()
        return [
            StoredDeadLetter(job_id, queue, body, died, Failure(*failure), str(seq))
            for seq, job_id, queue, body, died, *failure in rows
        ]

    def requeue(self, ids: Sequence[str]) -> list[str]:
        """Move them back to the ends of their queues, all in one transaction."""
        database = self._database
        move = (
            f"INSERT INTO {database.job} (queue, id, due_ms, body) "
            f"SELECT queue, id, ?, body FROM {database.dead} WHERE id = ?"
        )
        with database.errors():
            with database.transaction():
                moved = [
                    job_id
                    for job_id in dict.fromkeys(ids)
                    if database.connection.execute(move, (now_ms(), job_id)).rowcount == 1
                    and self._delete(job_id)
                ]
            self._sessions.ring()
        return moved

    def discard(self, ids: Sequence[str]) -> list[str]:
        """Delete them."""
        with self._database.errors(), self._database.transaction():
            return [job_id for job_id in ids if self._delete(job_id)]

    def _delete(self, job_id: str) -> bool:
        database = self._database
        delete = f"DELETE FROM {database.dead} WHERE id = ?"
        return database.connection.execute(delete, (job_id,)).rowcount == 1


def _place(cursor: str | None) -> int:
    """The number of a row; 0 stands before the first."""
    if cursor is None:
        return 0
    if cursor.isascii() and cursor.isdigit() and len(cursor) < 19:
        return int(cursor)
    raise UsageError(f"after: {cursor!r} is not the cursor of a dead letter")
