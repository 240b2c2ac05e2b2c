"""Slips of an author who takes two steps for one, looks too early, or leaves something running."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from offload import Delivery, Entry
from offload_mutants.registry import mutant
from offload_mutants.sql_driver import SqlDriver
from offload_simple.driver import SimpleDriver

# Two steps.


@mutant("DEAD-2", base="sql")
class RequeuesInTwoTransactions(SqlDriver):
    """Takes the letters out in one call, and stores their jobs in the next: cut between, all go."""

    async def requeue_dead(self, ids: Sequence[str]) -> Sequence[str]:
        jobs = [await self.call(self.take_out, each) for each in dict.fromkeys(ids)]
        found = [job for job in jobs if job]
        await self.enqueue(found)
        return [job.id for job in found]

    def take_out(self, job_id: str) -> Entry | None:
        letter = self.letter(job_id)
        if letter is None or not self.discard([job_id]):
            return None
        return Entry(letter.id, letter.queue, letter.body)


@mutant("DEAD-2")
class RequeuesWhenItHasRemoved(SimpleDriver):
    """Awaits the removal, and then the storing: a caller that gives up between them loses both."""

    async def requeue_dead(self, ids: Sequence[str]) -> Sequence[str]:
        letters = [
            self._memory.dead[each] for each in dict.fromkeys(ids) if each in self._memory.dead
        ]
        await self.discard_dead(ids)
        await asyncio.sleep(0)
        await self.enqueue([Entry(each.id, each.queue, each.body) for each in letters])
        return [each.id for each in letters]


# Wake-ups that are missed.


@mutant("DIST-6", "PERF-9", base="sql")
class LooksWhenTheFileIsNewer(SqlDriver):
    """Compares times of change by `>`: misses what is stored within the tick of its last look."""

    seen = -1
    has_more = True

    def fetch(self, owner: str, queues: Sequence[str], limit: int) -> list[Delivery]:
        wal = self.path.with_name(self.path.name + "-wal")
        changed = wal.stat().st_mtime_ns if wal.exists() else 0
        if not self.has_more and changed <= self.seen:
            return []
        self.seen = changed
        found = super().fetch(owner, queues, limit)
        others = "SELECT 1 FROM jobs WHERE due_ms > ? OR lease_ms > 0 LIMIT 1"
        left = self.db.execute(others, (self.now(),)).fetchone()
        self.has_more = len(found) >= limit or left is not None
        return found


# What a stop leaves.


@mutant("LIFE-10")
class LeavesATimerThatGoesOn(SimpleDriver):
    """Looks every minute by `call_later`, each time for the next, whether it is stopped or not."""

    async def subscribe(self, queues: Sequence[str]) -> Any:
        self.look_again()
        return await super().subscribe(queues)

    def look_again(self) -> None:
        asyncio.get_running_loop().call_later(60, self.look_again)


@mutant("LIFE-10")
class LeavesItsHelper(SimpleDriver):
    """Has a process beside it do what is slow, and doesn't end that one."""

    helper: subprocess.Popen[bytes] | None = None

    async def subscribe(self, queues: Sequence[str]) -> Any:
        if self.helper is None:
            self.begin_helper()
        return await super().subscribe(queues)

    def begin_helper(self) -> None:
        code = "import os, time\nwhile os.getppid() != 1: time.sleep(0.5)"
        self.helper = subprocess.Popen([sys.executable, "-c", code])
