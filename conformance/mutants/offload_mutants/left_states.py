"""What an earlier release of the adapters of bases `sql` and `net` has left, read and laid."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec

from offload_mutants import net_wire

GOLDEN = Path(__file__).with_name("golden")


class SqlStates:
    """The rows of a namespace, as SQL; without their numbers, since others are in the tables."""

    folder = GOLDEN / "sql"
    beside = ("1",)
    tables = ("jobs", "dead_letters")

    def __init__(self, path: Path) -> None:
        self._path = path

    async def read(self, *, namespace: str) -> str:
        with contextlib.closing(sqlite3.connect(self._path)) as db:
            return "".join(f"{line};\n" for line in self._lines(db, namespace))

    def _lines(self, db: sqlite3.Connection, namespace: str) -> Iterator[str]:
        for table in self.tables:
            query = "SELECT sql FROM sqlite_schema WHERE name = ?"
            (sql,) = db.execute(query, (table,)).fetchone()
            yield sql.replace("CREATE TABLE", "CREATE TABLE IF NOT EXISTS", 1)
            columns = [name for _, name, *_ in db.execute(f"PRAGMA table_info({table})")][1:]
            values = " || ', ' || ".join(
                f"CASE typeof({each}) WHEN 'blob' THEN "
                f"'CAST(' || quote(CAST({each} AS TEXT)) || ' AS BLOB)' ELSE quote({each}) END"
                for each in columns
            )
            rows = f"SELECT {values} FROM {table} WHERE namespace = ? ORDER BY rowid"
            for (row,) in db.execute(rows, (namespace,)):
                yield f"INSERT INTO {table} ({', '.join(columns)})\n  VALUES ({row})"

    async def lay(self, *, namespace: str, state: str) -> None:
        with contextlib.closing(sqlite3.connect(self._path)) as db:
            db.executescript(f"PRAGMA journal_mode = WAL; BEGIN IMMEDIATE; {state} COMMIT;")


class NetStates:
    """What the backend has on its disk, which is in its memory."""

    folder = GOLDEN / "net"
    beside = ("1",)

    def __init__(self, address: net_wire.Address) -> None:
        self._address = address

    async def read(self, *, namespace: str) -> str:
        found = net_wire.ask(self._address, net_wire.Read(namespace), 5)
        return msgspec.json.format(msgspec.json.encode(found), indent=1).decode() + "\n"

    async def lay(self, *, namespace: str, state: str) -> None:
        content = msgspec.json.decode(state, type=net_wire.Content)
        net_wire.ask(self._address, net_wire.Lay(namespace, content), 5)
