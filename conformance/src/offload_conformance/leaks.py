"""What a worker has left behind in this process: tasks, threads and open files."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_FILES = Path("/proc/self/fd")


@dataclass(frozen=True)
class Belongings:
    """What this process holds at a moment."""

    tasks: frozenset[str]
    threads: frozenset[str]
    files: frozenset[str]

    @classmethod
    def now(cls) -> Self:
        """Of this moment. Files are known on Linux only."""
        return cls(
            tasks=frozenset(
                task.get_name()
                for task in asyncio.all_tasks()
                if task is not asyncio.current_task()
            ),
            threads=frozenset(thread.name for thread in threading.enumerate()),
            files=frozenset(_open_files()) if _FILES.exists() else frozenset(),
        )

    def more_than(self, before: Belongings) -> list[str]:
        """What is there now and was not before, in words."""
        return [
            *(f"task {name}" for name in sorted(self.tasks - before.tasks)),
            *(f"thread {name}" for name in sorted(self.threads - before.threads)),
            *(f"file {name}" for name in sorted(self.files - before.files)),
        ]


def _open_files() -> list[str]:
    found = []
    for entry in _FILES.iterdir():
        try:
            found.append(f"{entry.name} {entry.readlink()}")
        except OSError:
            continue  # the one that lists the folder
    return found
