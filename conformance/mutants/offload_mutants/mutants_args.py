"""ARGS: slips in carrying what was performed."""

from __future__ import annotations

import asyncio
import copy
import inspect
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import Any

import msgspec

import offload
from offload import InvalidJobError, Job
from offload.config import Config
from offload_mutants.registry import mutant
from offload_mutants.wrapper import Wrapper


class Altering(Wrapper):
    """Performs other jobs than it is asked to."""

    def alter(self, job: Job) -> Job:
        """The job that is performed instead."""
        if type(job) is not Job or type(job.args) is not dict:
            return job  # it will be refused
        return msgspec.structs.replace(job, args=each(job.args, self.alter_value))

    def alter_value(self, value: Any) -> Any:
        """What is put in the place of a value, its inner ones done already."""
        return value

    async def perform(self, job: Job) -> str:
        return await super().perform(self.alter(job))

    async def perform_in(self, job: Job, delay: timedelta | float) -> str:
        return await super().perform_in(self.alter(job), delay)

    async def perform_at(self, job: Job, when: datetime) -> str:
        return await super().perform_at(self.alter(job), when)

    async def perform_many(self, jobs: Iterable[Job]) -> list[str]:
        return await super().perform_many([self.alter(job) for job in jobs])


def each(value: Any, alter: Callable[[Any], Any], depth: int = 0) -> Any:
    """The value with every part of it altered, the inmost first; cycles are left alone."""
    if depth > 80:
        return value
    if type(value) is dict:
        value = {key: each(item, alter, depth + 1) for key, item in value.items()}
    elif type(value) is list:
        value = [each(item, alter, depth + 1) for item in value]
    return alter(value)


@mutant("ARGS-1")
class RoundsLargeInts(Altering):
    """Every number is a float on its way, as in JavaScript: ints beyond 2**53 lose digits."""

    def alter_value(self, value: Any) -> Any:
        large = type(value) is int and abs(value) > 2**53 and -(2**63) <= value < 2**64
        return min(int(float(value)), 2**64 - 1) if large else value


@mutant("ARGS-1")
class EmptyListsBecomeDicts(Altering):
    """A script in Lua passes the args through one of its tables, where {} and [] are one."""

    def alter_value(self, value: Any) -> Any:
        return {} if type(value) is list and not value else value


@mutant("ARGS-1")
class SortsKeys(Altering):
    """Encodes with sort_keys, to have digests that can be compared."""

    def alter_value(self, value: Any) -> Any:
        if type(value) is dict and all(type(key) is str for key in value):
            return dict(sorted(value.items()))
        return value


@mutant("ARGS-1")
class LosesTheSignOfZero(Altering):
    """`value or 0.0`."""

    def alter_value(self, value: Any) -> Any:
        return value or 0.0 if type(value) is float else value


@mutant("ARGS-1")
class WholeFloatsBecomeInts(Altering):
    """A codec that writes 1.0 as 1, since they are equal."""

    def alter_value(self, value: Any) -> Any:
        return int(value) if type(value) is float and value in (0.0, 1.0, 2.0) and value else value


@mutant("ARGS-1")
class EndsTextAtNul(Altering):
    """Text goes through a C string."""

    def alter_value(self, value: Any) -> Any:
        return value.partition("\0")[0] if type(value) is str else value


@mutant("ARGS-1", "ARGS-2", "ARGS-3", "ARGS-5")
class DeliversTuples(Wrapper):
    """Decodes lists as tuples, as msgpack does when asked to be fast."""

    def change_handler(self, name: str, handler: Any) -> Any:
        return (lambda args: handler(each(args, _as_tuple))) if name == "note" else handler


def _as_tuple(value: Any) -> Any:
    return tuple(value) if type(value) is list else value


# -- by reference --------------------------------------------------------------


class Keeping(Wrapper):
    """Hands over the args that it keeps in memory, not those that were stored."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._kept: dict[str, Any] = {}

    def keep(self, args: Any) -> Any:
        """What is kept of the args of a call."""
        return args

    def take(self, kept: Any) -> Any:
        """What a handler gets of what is kept."""
        return kept

    async def perform(self, job: Job) -> str:
        kept = self.keep(getattr(job, "args", None))
        job_id = await super().perform(job)
        self._kept[job_id] = kept
        return job_id

    def change_handler(self, name: str, handler: Any) -> Any:
        async def hand_over(args: offload.Args) -> None:
            await asyncio.sleep(0)  # perform has returned by then
            kept = self._kept.get(offload.current_job().id)
            await handler(args if kept is None else self.take(kept))

        return hand_over if inspect.iscoroutinefunction(handler) else handler


@mutant("ARGS-2")
class CapturesAtTheRun(Keeping):
    """Copies the args when the job runs, not when it is performed."""

    def take(self, kept: Any) -> Any:
        return copy.deepcopy(kept)


@mutant("ARGS-2")
class CapturesWhenItIsDue(Keeping):
    """Captures what is performed at once, and of what is for later keeps the job."""

    async def perform(self, job: Job) -> str:
        return await self.inner.perform(job)

    async def perform_in(self, job: Job, delay: timedelta | float) -> str:
        job_id = await super().perform_in(job, delay)
        self._kept[job_id] = job.args
        return job_id


@mutant("ARGS-2")
class CapturesAfterConnecting(Altering):
    """Has a connection to wait for before it looks at the job."""

    async def perform(self, job: Job) -> str:
        await asyncio.sleep(0.001)
        return await super().perform(job)


@mutant("ARGS-3")
class RetriesWithTheSameObject(Keeping):
    """Keeps what it has decoded for the next attempt."""

    def keep(self, args: Any) -> Any:
        try:
            return copy.deepcopy(args)
        except Exception:
            return None  # it will be refused


@mutant("ARGS-3", "ARGS-2")
class PassesByReference(Keeping):
    """Everything is in one process: there is no need to copy."""


# -- what is refused -----------------------------------------------------------


@mutant("ARGS-4")
class TakesTuplesForLists(Altering):
    """As the json of the standard library does."""

    def alter_value(self, value: Any) -> Any:
        return list(value) if type(value) is tuple else value


@mutant("ARGS-4")
class TakesDatesAsText(Altering):
    """`json.dumps(args, default=str)`."""

    def alter_value(self, value: Any) -> Any:
        return value.isoformat() if isinstance(value, date) else value


@mutant("ARGS-4")
class TakesNanForNull(Altering):
    """As JSON.stringify does."""

    def alter_value(self, value: Any) -> Any:
        return None if type(value) is float and math.isnan(value) else value


@mutant("ARGS-4")
class TakesAnyKey(Altering):
    """Keys are made text, as the json of the standard library does with ints and None."""

    def alter_value(self, value: Any) -> Any:
        if type(value) is not dict:
            return value
        return {json.dumps(k) if type(k) in (int, bool) else k: v for k, v in value.items()}


@mutant("ARGS-4")
class TakesSubclasses(Altering):
    """Looks with isinstance, where the exact type counts."""

    def alter_value(self, value: Any) -> Any:
        for kind in (str, int):
            if isinstance(value, kind) and type(value) not in (kind, bool):
                return kind(value)
        return value


@mutant("ARGS-4")
class ReplacesSurrogates(Altering):
    """`encode(errors="replace")`."""

    def alter_value(self, value: Any) -> Any:
        return value.encode(errors="replace").decode() if type(value) is str else value


@mutant("ARGS-4")
class NamesNoPath(Wrapper):
    """Says what is wrong, and leaves it to the caller to find out where."""

    async def perform(self, job: Job) -> str:
        try:
            return await super().perform(job)
        except InvalidJobError as error:
            raise InvalidJobError(str(error).rpartition(": ")[2]) from None


# -- how large -----------------------------------------------------------------


class Measuring(Altering):
    """Measures the args in its own way."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.right = self.inner.limits.max_job_bytes
        self.inner.limits = replace(self.inner.limits, max_job_bytes=self.right * 10)

    def size(self, args: Any) -> int:
        """How large it takes these for."""
        return len(msgspec.json.encode(args))

    def alter(self, job: Job) -> Job:
        try:
            size = self.size(job.args)
        except Exception:
            return job  # it will be refused
        if size > self.right:
            raise offload.JobTooLargeError(f"{size} bytes")
        return job


@mutant("ARGS-5")
class CountsCharacters(Measuring):
    """A character isn't a byte."""

    def size(self, args: Any) -> int:
        return len(msgspec.json.encode(args).decode())


@mutant("ARGS-5")
class CountsEscapes(Measuring):
    """Takes what isn't ASCII for its escapes."""

    def size(self, args: Any) -> int:
        return len(json.dumps(args, separators=(",", ":")))


@mutant("ARGS-5")
class CountsBlanks(Measuring):
    """`json.dumps` puts blanks where compact JSON has none."""

    def size(self, args: Any) -> int:
        return len(json.dumps(args, ensure_ascii=False).encode())


@mutant("ARGS-5")
class AllowsAByteMore(Measuring):
    """Off by one."""

    def size(self, args: Any) -> int:
        return super().size(args) - 1


@mutant("ARGS-5")
class AllowsAByteLess(Measuring):
    """`>=` for `>`: the largest that is allowed is refused."""

    def size(self, args: Any) -> int:
        return super().size(args) + 1
