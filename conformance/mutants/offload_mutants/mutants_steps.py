"""Slips of an author who takes two steps for one, looks too early, or leaves something."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from offload import Delivery, Entry, Fetched
from offload_mutants import net_wire as wire
from offload_mutants.net_driver import NetDriver, NetSubscription
from offload_mutants.registry import mutant
from offload_mutants.sql_driver import SqlDriver, SqlSubscription
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
    """Compares whole seconds of changes: misses what is stored within that of its last look."""

    seen = -1
    has_more = True

    def fetch(self, owner: str, queues: Sequence[str], limit: int) -> list[Delivery]:
        wal = self.path.with_name(self.path.name + "-wal")
        changed = int(wal.stat().st_mtime) if wal.exists() else 0
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


# Between a look and the wait after it.


class _ClearsItsFlagInWait(SqlSubscription):
    async def fetch(self, limit: int) -> Fetched:
        return Fetched(await self.driver.call(self.driver.fetch, self.owner, self.queues, limit))

    async def wait(self, timeout: float) -> None:
        self.arrived.clear()
        await super().wait(timeout)


@mutant("PERF-9", "DIST-6", base="sql")
class ClearsItsFlagInWait(SqlDriver):
    """Forgets a ring that came after its look, and looks again a third of a second later."""

    poll = 0.3

    async def subscribe(self, queues: Sequence[str]) -> SqlSubscription:
        self.subscription = _ClearsItsFlagInWait(self, queues)
        return self.subscription


class _ListensWhileItWaits(SqlSubscription):
    async def wait(self, timeout: float) -> None:
        self.driver.subscription = self
        try:
            await super().wait(timeout)
        finally:
            self.driver.subscription = None


@mutant("PERF-9", "DIST-6", base="sql")
class ListensWhileItWaits(SqlDriver):
    """Is told of what comes while it waits, and of nothing else."""

    poll = 0.3

    async def subscribe(self, queues: Sequence[str]) -> SqlSubscription:
        return _ListensWhileItWaits(self, queues)


# On its way at a stop.


class _PopsInItsWait(NetSubscription):
    popped: Sequence[Delivery] = ()

    async def fetch(self, limit: int) -> Fetched:
        popped, self.popped = self.popped, ()
        return Fetched(popped) if popped else await super().fetch(limit)

    async def wait(self, timeout: float) -> None:
        await super().wait(timeout)
        request = wire.Fetch(self._driver.namespace, self._queues, 1)
        self.popped = [*self.popped, *(await self._driver.call(request)).deliveries]


@mutant("LIFE-7", "LIFE-9", "CONC-4", "DUR-2", base="net")
class PopsInItsWait(NetDriver):
    """Waits with a pop that a stop cancels: what was on its way comes when the lease has ended."""

    async def subscribe(self, queues: Sequence[str]) -> NetSubscription:
        return _PopsInItsWait(self, queues)
