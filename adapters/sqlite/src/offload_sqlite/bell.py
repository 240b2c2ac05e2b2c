"""How one process wakes another at once, and learns of its death: a named pipe beside the database.

A worker holds its pipe open for reading. To ring it, another process opens it
for writing and writes a byte. When the worker's process dies, however it dies,
the kernel closes its end, and opening it for writing fails with ENXIO.

Where there are no named pipes (Windows, some mounts) a worker has no bell: it
looks for work every `POLL_SECONDS`, and its death is noticed when its lease ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
from collections.abc import Callable
from enum import Enum
from pathlib import Path

log = logging.getLogger("offload")

POLL_SECONDS = 0.05


class Bell:
    """The reading end: a worker's own pipe."""

    def __init__(self, path: Path) -> None:
        """Make the pipe, and hold it open.

        Raises:
            OSError: there can be no pipe here.
        """
        if not hasattr(os, "mkfifo"):
            raise OSError(errno.ENOTSUP, "no named pipes on this system")
        self.path = path
        os.mkfifo(path, 0o600)
        # For writing too: else it would read as ended whenever the last ringer leaves.
        self._file = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        self._loop: asyncio.AbstractEventLoop | None = None

    def listen(self, rung: Callable[[], None]) -> None:
        """Call `rung` on the running loop whenever the bell is rung."""

        def read() -> None:
            with contextlib.suppress(BlockingIOError):
                os.read(self._file, 65536)
            rung()

        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._file, read)

    def stop_listening(self) -> None:
        """Call nobody any more."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._file)

    def close(self) -> None:
        """Remove the pipe."""
        os.close(self._file)
        self.path.unlink(missing_ok=True)


class Life(Enum):
    """What a pipe tells about the worker that made it."""

    ALIVE = "alive"
    DEAD = "dead"
    UNKNOWN = "unknown"


def ring(path: Path) -> Life:
    """Wake the worker behind this pipe."""
    return _reach(path, b"!")


def ask(path: Path) -> Life:
    """Whether the worker behind this pipe lives, without waking it."""
    return _reach(path, b"")


def _reach(path: Path, message: bytes) -> Life:
    try:
        file = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        return Life.DEAD if error.errno == errno.ENXIO else Life.UNKNOWN
    try:
        if message:
            os.write(file, message)
    except BlockingIOError:
        pass  # full of rings that it hasn't heard yet: it will wake
    except BrokenPipeError:
        return Life.DEAD
    finally:
        os.close(file)
    return Life.ALIVE
