"""What the engine and the adapter logged during a test, kept with its history."""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterator
from typing import Self
from urllib.parse import urlsplit

from offload.config import parse_address
from offload.text import plain

MOST_LINES = 50
"""How many are kept of a test, the last ones."""
MOST_CHARACTERS = 300
"""Of a line."""
_SECRET_NAMES = ("pass", "secret", "token")


class Masked:
    """Takes the secrets of a config string out of texts."""

    def __init__(self, url: str) -> None:
        address, raw = parse_address(url), urlsplit(url).password
        queried = [
            value
            for name, value in address.query.items()
            if any(part in name.lower() for part in _SECRET_NAMES)
        ]
        found = {str(secret) for secret in (address.password, raw, *queried) if secret}
        self._secrets = sorted(found, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        """The text without them."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


def _last_line(text: str) -> str:
    return text.rstrip().rpartition("\n")[2]


class KeptLines(logging.Handler):
    """Keeps the last warnings and errors of the logger `offload`, while it is entered."""

    def __init__(self, masked: Callable[[str], str]) -> None:
        super().__init__(logging.WARNING)
        self._masked = masked
        self._lines: deque[str] = deque(maxlen=MOST_LINES)

    def __enter__(self) -> Self:
        logging.getLogger("offload").addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("offload").removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one line; of an error's traceback, what it ends with."""
        try:
            text = f"{record.levelname} {record.getMessage()}"
            if record.exc_info and (error := record.exc_info[1]) is not None:
                text += f": {type(error).__name__}: {error}"
            elif not text.endswith(last := _last_line(record.exc_text or "")):
                text += f": {last}"
        except Exception as error:  # a test's error may raise when it is read
            text = f"{record.levelname} a line that can't be read: {type(error).__name__}"
        # Masked before it is cut: the cut could go through a secret.
        self._lines.append(plain(self._masked(text))[:MOST_CHARACTERS])

    def take(self) -> list[str]:
        """The lines that were kept, which are forgotten."""
        lines = list(self._lines)
        self._lines.clear()
        return lines


@contextlib.contextmanager
def logged(level: int = logging.WARNING) -> Iterator[list[str]]:
    """The lines that any logger logs within it, from this level on."""
    lines: list[str] = []
    handler = logging.Handler()
    formatter = logging.Formatter("%(levelname)s %(message)s")
    handler.emit = lambda record: lines.append(formatter.format(record))  # type: ignore[method-assign]
    root = logging.getLogger()
    former = root.level
    root.addHandler(handler)
    root.setLevel(min(level, former or level))
    try:
        yield lines
    finally:
        root.setLevel(former)
        root.removeHandler(handler)
