"""What a forked child must not keep alive: the connections and pipes of its parent.

A child inherits every open descriptor. While it lives, nobody sees that its
parent has died, since the parent's sockets and pipes stay open. Closing them
in the child would leave their numbers to the next file that it opens; so each
becomes `/dev/null` there, until whatever owns it closes it.

Public, for authors of adapters.
"""

from __future__ import annotations

import os
from collections import Counter

__all__ = ["close_in_child", "keep_in_child"]

_closed_in_child: Counter[int] = Counter()


def close_in_child(descriptor: int) -> None:
    """Let no forked child hold this descriptor open; call `keep_in_child` before it is closed."""
    _closed_in_child[descriptor] += 1


def keep_in_child(descriptor: int) -> None:
    """The descriptor is about to be closed, and its number may become another file's."""
    _closed_in_child[descriptor] -= 1
    if _closed_in_child[descriptor] <= 0:
        del _closed_in_child[descriptor]


def _replace_all() -> None:
    if not _closed_in_child:
        return
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in _closed_in_child:
        os.dup2(nothing, descriptor, inheritable=False)
    os.close(nothing)
    _closed_in_child.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_replace_all)
