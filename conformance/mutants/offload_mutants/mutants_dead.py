"""DEAD: slips in looking after dead letters."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from offload import StoredDeadLetter
from offload.config import MAX_ATTEMPTS, Config
from offload_mutants.registry import mutant
from offload_simple.driver import SimpleDriver
from offload_simple.memory import StoredJob, now_ms


@mutant("DEAD-1", "DEAD-4")
class ListsWithoutPaging(SimpleDriver):
    """Knows how many to show, and not from where."""

    async def list_dead(self, limit: int, after: str | None) -> Sequence[StoredDeadLetter]:
        return await super().list_dead(limit, None)


@mutant("DEAD-2")
class RequeuesInSilence(SimpleDriver):
    """Wakes its worker for what is performed, and not for what is put back."""

    async def requeue_dead(self, ids: Sequence[str]) -> Sequence[str]:
        subscription, self._subscription = self._subscription, None
        try:
            return await super().requeue_dead(ids)
        finally:
            self._subscription = subscription


@mutant("DEAD-1")
class ListsTheLastOneTwice(SimpleDriver):
    """Begins the next page with the one that ended the last."""

    async def list_dead(self, limit: int, after: str | None) -> Sequence[StoredDeadLetter]:
        letters = await super().list_dead(limit, after)
        last = next((each for each in self._memory.dead.values() if each.cursor == after), None)
        return [last, *letters][:limit] if last and len(letters) == limit else letters


@mutant("DEAD-1", "DEAD-4")
class ListsTheNewestFirst(SimpleDriver):
    """Shows the newest page first, as logs do."""

    async def list_dead(self, limit: int, after: str | None) -> Sequence[StoredDeadLetter]:
        letters = list(self._memory.dead.values())[::-1]
        ids = [letter.id for letter in letters]
        # Each later than the one before it, however fast they were buried.
        letters = [
            StoredDeadLetter(each.id, each.queue, each.body, each.died_ms - n, each.failure)
            for n, each in enumerate(letters)
        ]
        begin = ids.index(after) + 1 if after in ids else 0
        return letters[begin : begin + limit]


@mutant("DEAD-1", "DEAD-4")
class ListsInTheOrderOfPerforms(SimpleDriver):
    """Sorts by id, which tells when a job was performed and not when it died."""

    async def list_dead(self, limit: int, after: str | None) -> Sequence[StoredDeadLetter]:
        letters = sorted(self._memory.dead.values(), key=lambda letter: letter.id)
        behind = [each for each in letters if after is None or each.id > after]
        return [msgspec.structs.replace(each, cursor=each.id) for each in behind[:limit]]


@mutant("DEAD-4")
class BeginsOverWhenTheEntryIsGone(SimpleDriver):
    """Looks for the entry behind which a page begins."""

    async def list_dead(self, limit: int, after: str | None) -> Sequence[StoredDeadLetter]:
        is_there = any(each.cursor == after for each in self._memory.dead.values())
        return await super().list_dead(limit, after if is_there else None)


@mutant("DEAD-4")
class EndsWhenTheEntryIsGone(SimpleDriver):
    """Takes it for the end when the entry behind which a page begins is gone."""

    async def list_dead(self, limit: int, after: str | None) -> Sequence[StoredDeadLetter]:
        is_there = any(each.cursor == after for each in self._memory.dead.values())
        return await super().list_dead(limit, after) if after is None or is_there else []


@mutant("DEAD-4")
class CountsPlacesFromTheStart(SimpleDriver):
    """Its place is how many were listed before, which moves when one of them goes."""

    async def list_dead(self, limit: int, after: str | None) -> Sequence[StoredDeadLetter]:
        begin = 0 if after is None else int(after)
        page = list(self._memory.dead.values())[begin : begin + limit]
        return [
            msgspec.structs.replace(each, cursor=str(begin + number))
            for number, each in enumerate(page, 1)
        ]


@mutant("DEAD-2")
class RequeuesAsAttemptTwo(SimpleDriver):
    """Goes on counting from where the job died once."""

    async def requeue_dead(self, ids: Sequence[str]) -> Sequence[str]:
        found = await super().requeue_dead(ids)
        for queue in self._memory.ready.values():
            for job in queue:
                if job.id in found:
                    job.attempt = 1
        return found


@mutant("DEAD-2")
class RequeuesACopy(SimpleDriver):
    """Puts the job back and keeps the entry, to be on the safe side."""

    async def requeue_dead(self, ids: Sequence[str]) -> Sequence[str]:
        before = dict(self._memory.dead)
        found = await super().requeue_dead(ids)
        self._memory.dead = before
        return found


@mutant("DEAD-2")
class RequeuesInTwoSteps(SimpleDriver):
    """Reads and stores in one step, and deletes in the next: two at once make two jobs of one."""

    async def requeue_dead(self, ids: Sequence[str]) -> Sequence[str]:
        before = dict(self._memory.dead)
        await asyncio.sleep(0)
        for job_id in ids:
            if job_id in before:
                self._memory.dead[job_id] = before[job_id]
        return await super().requeue_dead(ids)


@mutant("DEAD-2")
class RequeuesIntoNowhere(SimpleDriver):
    """Removes the entry, and stores the job where nobody looks."""

    async def requeue_dead(self, ids: Sequence[str]) -> Sequence[str]:
        found = [job_id for job_id in dict.fromkeys(ids) if job_id in self._memory.dead]
        for job_id in found:
            letter = self._memory.dead.pop(job_id)
            job = StoredJob(job_id, letter.queue, letter.body, now_ms())
            self._memory.ready[f"{letter.queue}:requeued"].append(job)
        return found


@mutant("DEAD-3")
class DiscardsNothing(SimpleDriver):
    """Says what it would discard."""

    async def discard_dead(self, ids: Sequence[str]) -> Sequence[str]:
        return [job_id for job_id in dict.fromkeys(ids) if job_id in self._memory.dead]


@mutant("DEAD-3")
class HidesWhatIsDiscarded(SimpleDriver):
    """Takes it out of the list, and leaves it in the store, from where it can be requeued."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._hidden: set[str] = set()

    async def discard_dead(self, ids: Sequence[str]) -> Sequence[str]:
        found = [i for i in dict.fromkeys(ids) if i in self._memory.dead and i not in self._hidden]
        self._hidden.update(found)
        return found

    async def list_dead(self, limit: int, after: str | None) -> Sequence[StoredDeadLetter]:
        letters = await super().list_dead(limit + len(self._hidden), after)
        return [letter for letter in letters if letter.id not in self._hidden][:limit]

    async def show_dead(self, job_id: str) -> StoredDeadLetter | None:
        return None if job_id in self._hidden else await super().show_dead(job_id)


@mutant("DEAD-1")
class TellsTheAttemptsAllowed(SimpleDriver):
    """Lists each letter with the attempts that its job might have had."""

    async def list_dead(self, limit: int, after: str | None) -> Sequence[StoredDeadLetter]:
        return [
            msgspec.structs.replace(
                each, failure=msgspec.structs.replace(each.failure, attempts=MAX_ATTEMPTS.default)
            )
            for each in await super().list_dead(limit, after)
        ]
