"""The file itself: its one name, its mode, and whether it is still the one that was opened."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import TypeAlias

from offload import BackendError, ConfigError

Identity: TypeAlias = tuple[int, int]
"""What tells one file from another of the same name: its device and its number there."""


class DatabaseFile:
    """Where a database is. The path is made absolute at once: a process may change its folder."""

    def __init__(self, path: Path, mode: int | None = None) -> None:
        """`mode` is that of the file and of those beside it; None leaves them to the umask."""
        try:
            self.named = path.absolute()
        except FileNotFoundError:
            raise ConfigError(f"{path}: the working directory is gone; name a whole path") from None
        self._name = str(self.named)
        self._mode = mode

    @property
    def path(self) -> Path:
        """The file behind every link: what stands beside it is found from each of its names."""
        return self.named.resolve()

    def identity(self) -> Identity | None:
        """Which file has the name now; None if none has."""
        try:
            status = os.stat(self._name)  # noqa: PTH116  (a `Path` takes twice as long)
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def prepare(self) -> None:
        """Make the file with its mode, or see that it has it, before anything is written.

        SQLite gives its own files beside the database the mode of the database.

        Raises:
            BackendError: it is no regular file, or its mode can't be set.
            OSError: it can't be made.
        """
        path = self.path
        if self._mode is not None:
            with contextlib.suppress(FileExistsError):
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, self._mode)
                try:
                    os.fchmod(descriptor, self._mode)  # the umask may have taken from it
                finally:
                    os.close(descriptor)
        try:
            status = path.stat()
        except OSError:
            return  # it is yet to be made, or SQLite says better what is wrong
        if not stat.S_ISREG(status.st_mode):
            raise BackendError(f"{path} is not a regular file")
        if self._mode is not None:
            self._set_mode(path, self._mode)

    def _set_mode(self, path: Path, mode: int) -> None:
        for each in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
            with contextlib.suppress(FileNotFoundError):
                found = stat.S_IMODE(each.stat().st_mode)
                if found == mode:
                    continue
                try:
                    each.chmod(mode)
                except PermissionError:
                    raise BackendError(
                        f"{each} has mode {found:o}, and only its owner can give it {mode:o}"
                    ) from None
