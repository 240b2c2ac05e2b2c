"""What happens to the workers of a process when it forks, and when it ends."""

from __future__ import annotations

import atexit
import os
import weakref
from typing import Protocol

from offload.engine.vigil import Vigil


class Living(Protocol):
    """What is needed of a worker."""

    def begin_again_in_child(self) -> None:
        """In a forked child: leave alone what the parent has."""

    def name_what_is_lost(self) -> None:
        """At the end of the process: a backend in its memory ends with it."""


vigil = Vigil()
alive: weakref.WeakSet[Living] = weakref.WeakSet()
"""The workers of this process."""
left_to_the_parent: list[object] = []
"""What a forked child has inherited and must not touch."""


def _begin_again_in_child() -> None:
    vigil.begin_again_in_child()
    for worker in list(alive):
        worker.begin_again_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_again_in_child)


@atexit.register
def _name_what_is_lost() -> None:
    for worker in list(alive):
        worker.name_what_is_lost()
