"""How things are shown: on a terminal, in a pipe, and never with a secret in them."""

from __future__ import annotations

import io
import re
import sys
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from offload.text import plain

_WIDE = 10_000
"""Columns of a "screen" that is a file or a pipe: nothing is cut or wrapped there."""

# Not the form of a config string, as messages of our own show it.
LONGEST_CELL = 1_000
"""Characters; the longest id that there can be fits."""
_CREDENTIALS = re.compile(r"://(?!\[user\[)\S*@")
_OPTIONS = re.compile(r"(://[^\s?]*\?)[^\s'\"]*")


def make_console() -> Console:
    """The console on stdout, as it is now: colours and cursor only where there are such."""
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = _WIDE
    return console


class _PlainTable(Table):
    """A table whose cells may come from anywhere."""

    def add_row(self, *cells: Any, **options: Any) -> None:
        """Add a row; text is made plain, on one line, and of a huge one its beginning."""
        super().add_row(*(_cell(c) if isinstance(c, str) else c for c in cells), **options)


def _cell(text: str) -> str:
    return plain(text if len(text) <= LONGEST_CELL else text[:LONGEST_CELL] + "…")


def make_table(console: Console, *columns: str) -> Table:
    """An empty table: with a line under its head on a terminal, plain text elsewhere."""
    style = box.SIMPLE_HEAD if console.is_terminal else None
    table = _PlainTable(*columns, box=style, header_style="bold", pad_edge=False, show_edge=False)
    for column in table.columns:
        column.overflow = "fold"
    return table


def write_anything() -> None:
    """Let no character stop a command: what the terminal or the pipe can't hold is escaped."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def shown(text: str) -> str:
    """A message that may hold foreign text and a config string, as it may be printed."""
    return plain(masked(text), lines=True)


def masked(text: str) -> str:
    """A message without those parts of a config string in it that may be secret.

    What the core says is so already, unless a config string stands where a name should.
    """
    return _OPTIONS.sub(r"\1***", _CREDENTIALS.sub("://***@", text))
