"""What a worker has left behind: tasks, timers, threads, open files and child processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

_FILES = Path("/proc/self/fd")
_TASKS = Path("/proc/self/task")

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
    timers: Counter[str]
    """What the loop will call later, by its name; not what ends a sleep or a timeout."""
    children: Counter[str]
    places: dict[str, str] = field(default_factory=dict, compare=False)
    """Of each task's name, what it runs and where it waits."""

    @classmethod
    def now(cls) -> Self:
        """Of this moment. Files and children are known on Linux only."""
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        return cls(
            tasks=Counter(task.get_name() for task in tasks),
            places={task.get_name(): _place_of(task) for task in tasks},
            threads=Counter(
                thread.name
                for thread in threading.enumerate()
                if not (_OF_THE_LOOP.fullmatch(thread.name) or thread.name == LIMIT_THREAD)
            ),
            files=Counter(_open_files()),
            timers=Counter(_timers()),
            children=Counter(_children()),
        )

    def more_than(self, before: Belongings) -> list[str]:
        """What is there now and was not before, in words."""
        return [
            *_named("task", self.tasks - before.tasks, self.places),
            *_named("thread", self.threads - before.threads, {}),
            *_named("file", files := self.files - before.files, _peers_of(files)),
        ]

    def goes_on_beside(self, before: Belongings) -> list[str]:
        """The same for timers and processes, of which the kit may begin some within a test."""
        return [
            *_named("timer", self.timers - before.timers, {}),
            *_named("process", self.children - before.children, {}),
        ]


def _named(kind: str, names: Counter[str], places: Mapping[str, str]) -> list[str]:
    return sorted(f"{kind} {name}{places.get(name, '')}" for name in names.elements())


def _place_of(task: asyncio.Task[object]) -> str:
    """What a task runs, and the line where it waits."""
    what = getattr(task.get_coro(), "__qualname__", "")
    where = ""
    for frame in task.get_stack(limit=1):
        where = f" at {Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
    return f" ({what}{where})"


def _peers_of(files: Iterable[str]) -> dict[str, str]:
    """Of each open socket among these, the addresses of its two ends."""
    found: dict[str, str] = {}
    for name in files:
        descriptor, _, target = name.partition(" ")
        if target.startswith("socket:"):
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(int(descriptor))) as end:
                found[name] = f" ({_end(end.getsockname)} to {_end(end.getpeername)})"
    return found


def _end(ask: Callable[[], Any]) -> str:
    try:
        address = ask()
    except OSError:
        return "nobody"
    return f"{address[0]}:{address[1]}" if isinstance(address, tuple) else str(address) or "unnamed"


def _open_files() -> Iterable[str]:
    if not _FILES.exists():
        return
    for entry in _FILES.iterdir():
        try:
            yield f"{entry.name} {entry.readlink()}"
        except OSError:
            continue  # the one that lists the folder


def _timers() -> Iterable[str]:
    """Those of asyncio itself belong to a task, which is told already, or to the kit's waits."""
    # A loop that isn't asyncio's own may have no such list.
    for handle in list(getattr(asyncio.get_running_loop(), "_scheduled", ())):
        called = getattr(handle, "_callback", None)
        module = getattr(called, "__module__", None) or ""
        if not handle.cancelled() and module.partition(".")[0] not in ("asyncio", "_asyncio"):
            yield getattr(called, "__qualname__", repr(called))


def _children() -> Iterable[str]:
    for thread in _TASKS.glob("*"):
        with contextlib.suppress(OSError):  # a thread that has just ended
            yield from (thread / "children").read_text().split()
