"""Text that somebody else wrote, made safe to show: on a terminal, and in a line of a log.

A handler's name, an id, a queue or an error may come from a backend that
others write to. Nothing of it may steer a terminal or forge a line.

Public, for adapters that bring commands of their own.
"""

from __future__ import annotations

__all__ = ["plain"]


def plain(text: str, *, lines: bool = False) -> str:
    """The text, all that isn't printable escaped; line breaks and tabs stay if `lines`."""
    if text.isprintable():
        return text
    kept = "\n\t" if lines else ""
    return "".join(c if c.isprintable() or c in kept else ascii(c)[1:-1] for c in text)
