"""What the demo finds out about a file."""

from __future__ import annotations

import codecs
import hashlib
import stat
from dataclasses import dataclass
from pathlib import Path

CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Reading:
    """A file as it was when it was read."""

    size: int
    digest: str
    """SHA-256."""
    words: int | None
    """Runs of bytes between white space; None if it isn't text."""


def read(path: Path) -> Reading:
    """Read a file from its beginning to its end, in bounded memory.

    Raises:
        OSError: it is gone, may not be read, or is no regular file any more.
    """
    if not stat.S_ISREG(path.lstat().st_mode):
        raise OSError("no regular file any more")  # a pipe put in its place would never end
    digest = hashlib.sha256()
    words = _WordCount()
    size = 0
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK):
            size += len(chunk)
            digest.update(chunk)
            words.update(chunk)
    return Reading(size, digest.hexdigest(), words.total())


class _WordCount:
    """Counts the words of a text that comes in chunks, until it turns out to be none."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._words = 0
        self._in_word = False
        self._is_text = True

    def update(self, chunk: bytes) -> None:
        if not self._is_text:
            return
        try:
            self._decoder.decode(chunk)
        except UnicodeDecodeError:
            self._is_text = False
        if b"\0" in chunk:
            self._is_text = False
        self._words += len(chunk.split())
        if self._in_word and not chunk[:1].isspace():
            self._words -= 1  # the word that the last chunk ended in goes on
        self._in_word = not chunk[-1:].isspace()

    def total(self) -> int | None:
        try:
            self._decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return None
        return self._words if self._is_text else None
