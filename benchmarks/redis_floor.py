"""The floors: the least that storing, running and waking can cost with a Redis server.

A push without any script, id or queue; and a worker that does what no reliable one can leave
out, and nothing else: a script leases up to 100 jobs, each runs in a task of its own with a
context and a guard against what it raises, with a timeout if it is to have one, and what has
ended is forgotten by the batch. An idle one blocks on a list until there is something to fetch.
No retry, no schedule, no dead letter, no drain, no reconnect; leases that nobody ever takes over.
It is a prototype in redis-py's client at its defaults, not a bound: what batches better is faster.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import random
import secrets
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from redis.asyncio import Redis

from benchmarks.harness import Values
from benchmarks.latency import PICK_UPS, answers, as_pick_up
from benchmarks.redis_server import flush
from benchmarks.workload import CONCURRENCY, HANDLER, DrainClock, in_25_tasks, jobs_per_second

READY, RUNNING, LEASES, WAKE = "ready", "running", "leases", "wake"
BATCH = 100
LEASE_MS = 15_000
BLOCK_SECONDS = 1
PUSH = """
if redis.call('RPUSH', KEYS[1], ARGV[1]) == 1 then
  redis.call('RPUSH', KEYS[2], 1)
end
"""
FETCH = """
local entries = redis.call('LPOP', KEYS[1], ARGV[1]) or {}
if #entries == 0 then
  return entries
end
local time = redis.call('TIME')
local due = time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[2]
local filed, leases = {}, {}
for i, entry in ipairs(entries) do
  local id = entry:sub(1, 16)
  filed[2 * i - 1], filed[2 * i] = id, entry
  leases[2 * i - 1], leases[2 * i] = due, id
end
redis.call('HSET', KEYS[2], unpack(filed))
redis.call('ZADD', KEYS[3], unpack(leases))
return entries
"""
ACKNOWLEDGE = """
redis.call('HDEL', KEYS[1], unpack(ARGV))
redis.call('ZREM', KEYS[2], unpack(ARGV))
"""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode
_running: contextvars.ContextVar[bytes] = contextvars.ContextVar("running")


def _entry(args: dict[str, Any]) -> bytes:
    job_id = secrets.token_hex(8)
    job = {"v": 1, "id": job_id, "handler": HANDLER, "enqueued_ms": time.time_ns(), "args": args}
    return job_id.encode() + _encode(job)


def _client(url: str) -> Any:
    """Its commands are not typed."""
    return Redis.from_url(url)


# -- storing -------------------------------------------------------------------


def enqueue(url: str, tasks: int, jobs: int) -> Values:
    """An RPUSH for each job, from one task or from 25, awaited."""

    async def run(number: int) -> float:
        flush(url)
        async with _client(url) as client:

            async def push(share: int) -> None:
                for _ in range(share):
                    await client.execute_command("RPUSH", READY, _entry({"x": 1.0}))

            await push(1)
            began = time.perf_counter()
            await (push(number) if tasks == 1 else in_25_tasks(push, number))
            return time.perf_counter() - began

    return {"one at a time" if tasks == 1 else "25 tasks": jobs_per_second(run, jobs)}


# -- running -------------------------------------------------------------------


class Prototype:
    """The worker."""

    def __init__(
        self,
        url: str,
        handle: Callable[[dict[str, Any]], Awaitable[None]],
        timeout: float | None,
    ) -> None:
        self.failed: list[bytes] = []
        self.stopping = False
        self._handle = handle
        self._timeout = timeout
        self._fetching, self._settling = _client(url), _client(url)
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()
        self._buffer: deque[bytes] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended: list[bytes] = []
        self._busy = 0
        self._room, self._unsettled = asyncio.Event(), asyncio.Event()

    async def run(self) -> None:
        """Fetch and run until told to stop, which is seen when a blocking call is over."""
        fetch = await self._fetching.script_load(FETCH)
        acknowledge = await self._settling.script_load(ACKNOWLEDGE)
        settler = self._loop.create_task(self._settle(acknowledge))
        try:
            while not self.stopping:
                if len(self._buffer) >= BATCH:
                    self._room.clear()
                    await self._room.wait()
                    continue
                entries: list[bytes] = await self._fetching.execute_command(
                    "EVALSHA", fetch, 3, READY, RUNNING, LEASES, BATCH, LEASE_MS
                )
                self._buffer.extend(entries)
                self._fill()
                if not entries:
                    await self._fetching.execute_command("BLPOP", WAKE, BLOCK_SECONDS)
        finally:
            settler.cancel()
            await self._fetching.aclose()
            await self._settling.aclose()

    async def _settle(self, acknowledge: str) -> None:
        while True:
            await self._unsettled.wait()
            self._unsettled.clear()
            while self._ended:
                ids, self._ended = self._ended[:BATCH], self._ended[BATCH:]
                await self._settling.execute_command(
                    "EVALSHA", acknowledge, 2, RUNNING, LEASES, *ids
                )

    def _fill(self) -> None:
        while self._buffer and self._busy < CONCURRENCY:
            self._busy += 1
            entry = self._buffer.popleft()
            task = self._loop.create_task(self._run(entry), context=self._context.copy())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(self, entry: bytes) -> None:
        job_id = entry[:16]
        _running.set(job_id)
        try:
            args = _decode(entry[16:])["args"]
            if self._timeout is None:
                await self._handle(args)
            else:
                async with asyncio.timeout(self._timeout):
                    await self._handle(args)
        except Exception:
            self.failed.append(job_id)
        else:
            self._ended.append(job_id)
            self._unsettled.set()
        self._busy -= 1
        self._fill()
        self._room.set()


@asynccontextmanager
async def _running_prototype(
    url: str,
    handle: Callable[[dict[str, Any]], Awaitable[None]],
    timeout: float | None = None,
) -> AsyncIterator[None]:
    prototype = Prototype(url, handle, timeout)
    task = asyncio.create_task(prototype.run())
    yield
    prototype.stopping = True
    await task


def drain(url: str, timeout: float | None, jobs: int) -> Values:
    """Run what waits."""

    async def run() -> float:
        flush(url)
        clock = DrainClock(jobs)

        async def handle(_: dict[str, Any]) -> None:
            clock.tick()

        async with _client(url) as client:
            for _ in range(0, clock.jobs, BATCH):
                entries = [_entry({"x": 1.0}) for _ in range(BATCH)]
                await client.execute_command("RPUSH", READY, *entries)
        gc.collect()
        async with _running_prototype(url, handle, timeout):
            await clock.done.wait()
        return clock.jobs_per_second

    return {"drain": asyncio.run(run())}


# -- waking --------------------------------------------------------------------


def pick_up(url: str) -> Values:
    """Push in another process, and be woken for each job."""

    async def run() -> list[float]:
        flush(url)
        delays: asyncio.Queue[float] = asyncio.Queue()

        async def handle(args: dict[str, Any]) -> None:
            delays.put_nowait((time.time_ns() - args["since"]) / 1e6)

        async with _running_prototype(url, handle):
            return await answers(delays, "benchmarks.redis_floor", url)

    return as_pick_up(asyncio.run(run()))


async def _push_with_pauses(url: str) -> None:
    async with _client(url) as client:
        push = await client.script_load(PUSH)
        for _ in range(PICK_UPS):
            await asyncio.sleep(random.uniform(0.01, 0.06))
            entry = _entry({"since": time.time_ns()})
            await client.execute_command("EVALSHA", push, 2, READY, WAKE, entry)


if __name__ == "__main__":
    # The pushing process of `pick_up`.
    asyncio.run(_push_with_pauses(sys.argv[1]))
