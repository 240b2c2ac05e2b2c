"""How one process wakes another at once, and learns of its death: a named pipe beside the database.

A worker holds its pipe open for reading. To ring it, another process opens it
for writing and writes a byte. When the worker's process dies, however it dies,
the kernel closes its end, and opening it for writing fails with ENXIO.

Where there are no named pipes (Windows, some mounts) a worker has no bell: it
looks for work every `POLL_SECONDS`, and its death is noticed when its lease ends.

The names of bells stand in a table that other programs can write to: `Bells`
reaches only what is named as a bell of this database and is a pipe.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import re
import secrets
import stat
from collections.abc import Callable
from enum import Enum
from pathlib import Path

from offload.forking import close_in_child, keep_in_child

log = logging.getLogger("offload")

POLL_SECONDS = 0.05
_NO_LINKS = getattr(os, "O_NOFOLLOW", 0)


class Bell:
    """The reading end: a worker's own pipe."""

    def __init__(self, path: Path, like: Path) -> None:
        """Make the pipe, and hold it open.

        A user who may write to the file `like`, the database, may ring.

        Raises:
            OSError: there can be no pipe here.
        """
        if not hasattr(os, "mkfifo"):
            raise OSError(errno.ENOTSUP, "no named pipes on this system")
        self.path = path
        os.mkfifo(path, 0o600)
        try:
            # For writing too: else it would read as ended whenever the last ringer leaves.
            self._file = os.open(path, os.O_RDWR | os.O_NONBLOCK | _NO_LINKS)
        except OSError:
            path.unlink(missing_ok=True)
            raise
        close_in_child(self._file)
        self._admit_those_of(like)
        self._loop: asyncio.AbstractEventLoop | None = None

    def _admit_those_of(self, like: Path) -> None:
        with contextlib.suppress(OSError):
            status = like.stat()
            if status.st_gid != os.fstat(self._file).st_gid:
                with contextlib.suppress(PermissionError):
                    os.fchown(self._file, -1, status.st_gid)
            os.fchmod(self._file, status.st_mode & 0o666)

    def listen(self, rung: Callable[[], None]) -> None:
        """Call `rung` on the running loop whenever the bell is rung."""

        def read() -> None:
            with contextlib.suppress(BlockingIOError):
                os.read(self._file, 65536)
            rung()

        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._file, read)

    def can_be_rung(self) -> bool:
        """Whether the pipe is still to be found under its name."""
        try:
            return os.path.samestat(self.path.lstat(), os.fstat(self._file))
        except OSError:
            return False

    def stop_listening(self) -> None:
        """Call nobody any more."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._file)

    def close(self) -> None:
        """Remove the pipe."""
        keep_in_child(self._file)
        os.close(self._file)
        self.path.unlink(missing_ok=True)


class Life(Enum):
    """What a pipe tells about the worker that made it."""

    ALIVE = "alive"
    DEAD = "dead"
    UNKNOWN = "unknown"


class Bells:
    """The bells of all workers of one database, by their names in its table."""

    def __init__(self, database: Path) -> None:
        self.database = database
        self._is_name = re.compile(re.escape(database.name) + r"-worker-[0-9a-f]{16}").fullmatch

    def make(self) -> Bell:
        """A bell of one's own. Raises OSError."""
        name = f"{self.database.name}-worker-{secrets.token_hex(8)}"
        return Bell(self.database.with_name(name), self.database)

    def is_name(self, name: object) -> bool:
        """Whether this is the name of a bell, and of nothing else."""
        return isinstance(name, str) and self._is_name(name) is not None

    def ring(self, name: str) -> Life:
        """Wake the worker behind this pipe."""
        return self._reach(name, b"!")

    def ask(self, name: str) -> Life:
        """Whether the worker behind this pipe lives, without waking it."""
        return self._reach(name, b"")

    def remove(self, name: str) -> None:
        """Remove the pipe of a worker that is dead."""
        if self._is_pipe(name):
            self.database.with_name(name).unlink(missing_ok=True)

    def _is_pipe(self, name: str) -> bool:
        try:
            return stat.S_ISFIFO(self.database.with_name(name).lstat().st_mode)
        except OSError:
            return False

    def _reach(self, name: str, message: bytes) -> Life:
        if not self.is_name(name):
            return Life.UNKNOWN
        try:
            file = os.open(self.database.with_name(name), os.O_WRONLY | os.O_NONBLOCK | _NO_LINKS)
        except OSError as error:
            # A socket or a device can say so, too.
            nobody = error.errno == errno.ENXIO and self._is_pipe(name)
            return Life.DEAD if nobody else Life.UNKNOWN
        try:
            if not stat.S_ISFIFO(os.fstat(file).st_mode):
                return Life.UNKNOWN
            if message:
                os.write(file, message)
        except BlockingIOError:
            pass  # full of rings that it hasn't heard yet: it will wake
        except BrokenPipeError:
            return Life.DEAD
        finally:
            os.close(file)
        return Life.ALIVE
