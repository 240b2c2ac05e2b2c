"""How things are shown: on a terminal, in a pipe, and never with a secret in them."""

from __future__ import annotations

import re

from rich import box
from rich.console import Console
from rich.table import Table

_WIDE = 10_000
"""Columns of a "screen" that is a file or a pipe: nothing is cut or wrapped there."""

_CREDENTIALS = re.compile(r"://\S*@")
_OPTIONS = re.compile(r"(://[^\s?]*\?)[^\s'\"]*")


def make_console() -> Console:
    """The console on stdout, as it is now: colours and cursor only where there are such."""
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = _WIDE
    return console


def make_table(console: Console, *columns: str) -> Table:
    """An empty table: with a line under its head on a terminal, plain text elsewhere."""
    style = box.SIMPLE_HEAD if console.is_terminal else None
    table = Table(*columns, box=style, header_style="bold", pad_edge=False, show_edge=False)
    for column in table.columns:
        column.overflow = "fold"
    return table


def masked(text: str) -> str:
    """A message without those parts of a config string in it that may be secret.

    What the core says is so already, unless a config string stands where a name should.
    """
    return _OPTIONS.sub(r"\1***", _CREDENTIALS.sub("://***@", text))
