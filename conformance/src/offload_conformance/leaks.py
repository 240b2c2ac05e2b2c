"""What a worker has left behind in this process: tasks, threads and open files."""

from __future__ import annotations

import asyncio
import re
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_FILES = Path("/proc/self/fd")

LIMIT_THREAD = "offload-kit-limit"
"""The kit's own, which watches over each phase of a test."""
_OF_THE_LOOP = re.compile(r"asyncio(_|-waitpid-)\d+")
"""Threads that asyncio keeps for whoever looks up a host or runs a process: nobody's to end."""


@dataclass(frozen=True)
class Belongings:
    """What this process holds at a moment."""

    tasks: Counter[str]
    """How many there are of each name, since names may be shared."""
    threads: Counter[str]
    files: Counter[str]

    @classmethod
    def now(cls) -> Self:
        """Of this moment. Files are known on Linux only."""
        return cls(
            tasks=Counter(
                task.get_name()
                for task in asyncio.all_tasks()
                if task is not asyncio.current_task()
            ),
            threads=Counter(
                thread.name
                for thread in threading.enumerate()
                if not (_OF_THE_LOOP.fullmatch(thread.name) or thread.name == LIMIT_THREAD)
            ),
            files=Counter(_open_files()),
        )

    def more_than(self, before: Belongings) -> list[str]:
        """What is there now and was not before, in words."""
        return [
            *_named("task", self.tasks - before.tasks),
            *_named("thread", self.threads - before.threads),
            *_named("file", self.files - before.files),
        ]


def _named(kind: str, names: Counter[str]) -> list[str]:
    return sorted(f"{kind} {name}" for name in names.elements())


def _open_files() -> Iterable[str]:
    if not _FILES.exists():
        return
    for entry in _FILES.iterdir():
        try:
            yield f"{entry.name} {entry.readlink()}"
        except OSError:
            continue  # the one that lists the folder
