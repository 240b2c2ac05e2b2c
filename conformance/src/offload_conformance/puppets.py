"""Handlers that do as the job says, and report to the stage what they do.

The args of a job are its part: `{"tag": "a", "do": {"1": [["raise", "boom"]], "*": []}}` says
what to do in attempt 1, and in every other. The steps:

    ["gate", name]        wait until the kit opens this gate
    ["endure", name]      the same, and no cancellation ends it
    ["raise", text]       raise a ValueError (or, with a third item, another exception)
    ["retry", seconds]    raise offload.Retry
    ["reject", reason]    raise offload.Reject
    ["kill"]              end this process as kill -9 does
    ["work", seconds]     take so long (`async def` only)
    ["block", seconds]    hold up the event loop, as a careless handler does
    ["perform", tag]      perform another job (with a third item: what that one is to do)
    ["perform_in", tag, seconds]  perform another job to run later (`async def` only)
    ["stop"]              stop the worker
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import hashlib
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Coroutine, Iterator
from typing import Any

import offload
from offload_conformance.stage import DEADLINE

EXCEPTIONS = {"CancelledError": asyncio.CancelledError}


class Troupe:
    """The puppets of one worker."""

    def __init__(
        self, stage_address: str, worker: offload.Worker, name: str, clock: float = 0.0
    ) -> None:
        """`clock` is by how many seconds the clock of this process is wrong."""
        self._wrong_by_ms = clock * 1000
        host, _, port = stage_address.rpartition(":")
        self._address = (host, int(port))
        self._worker = worker
        self._name = self.name = name
        self.may_be_killed = False
        self._tally: list[str] = []
        self._lock = threading.Lock()
        self._socket = socket.create_connection(self._address)

    def close(self) -> None:
        """Leave the stage."""
        self._socket.close()

    def report(self, event: str, **what: Any) -> None:
        """Tell the stage."""
        line = json.dumps({"event": event, "worker": self._name, **what}) + "\n"
        with self._lock:
            self._socket.sendall(line.encode())

    async def act(self, args: offload.Args) -> None:
        """The `async def` puppet."""
        with self._run(args) as steps:
            for step in steps:
                if step[0] == "gate":
                    await self._wait_at(step[1])
                elif step[0] == "endure":
                    await _endure(self._wait_at(step[1]))
                elif step[0] == "work":
                    await asyncio.sleep(step[1])
                elif step[0] == "perform":
                    self._performed(step[1], await self._worker.perform(_job_of(*step[1:])))
                elif step[0] == "perform_in":
                    await self._perform_later(step[1], step[2])
                elif step[0] == "stop":
                    report = await self._worker.stop()
                    self.report("stop_returned", report=repr(report))
                else:
                    self._plain(step)

    def act_plain(self, args: offload.Args) -> None:
        """The `def` puppet."""
        with self._run(args) as steps:
            for step in steps:
                if step[0] == "gate":
                    _refuse_on_a_loop()
                    with socket.create_connection(self._address, DEADLINE) as waiting:
                        waiting.sendall(json.dumps({"gate": step[1]}).encode() + b"\n")
                        waiting.recv(3)
                elif step[0] == "perform":
                    self._performed(step[1], self._worker.sync.perform(_job_of(*step[1:])))
                elif step[0] == "stop":
                    self.report("stop_returned", report=repr(self._worker.sync.stop()))
                else:
                    self._plain(step)

    @contextlib.contextmanager
    def _run(self, args: offload.Args) -> Iterator[list[list[Any]]]:
        """One run: tells how it began and how it ended, and gives the steps in between."""
        job = self._enter(args)
        how = "returned"
        try:
            yield _steps(args, job.attempt)
        except BaseException as error:
            how = type(error).__name__
            raise
        finally:
            self.report(
                "ended",
                id=job.id,
                tag=args.get("tag"),
                attempt=job.attempt,
                how=how,
                wall_ms=self._wall_ms(),
            )

    async def note(self, args: offload.Args) -> None:
        """A puppet that only tells exactly what it got, whatever that is."""
        job = offload.current_job()
        self.report("received", id=job.id, attempt=job.attempt, spelt=spell(args))

    async def _perform_later(self, tag: str, delay: float) -> None:
        due_ms = self._wall_ms() + delay * 1000
        self._performed(tag, await self._worker.perform_in(_job_of(tag), delay), due_ms)

    async def tally(self, _: offload.Args) -> None:
        """Does nothing but count itself; for thousands of jobs, reported many at a time."""
        if not self._tally:
            asyncio.get_running_loop().call_later(0.02, self._report_tally)
        self._tally.append(offload.current_job().id)

    def _report_tally(self) -> None:
        ids, self._tally = self._tally, []
        self.report("tallied", ids=ids)

    def _enter(self, args: offload.Args) -> offload.JobContext:
        wall_ms = self._wall_ms()
        job = offload.current_job()
        self.report(
            "started",
            id=job.id,
            tag=args.get("tag"),
            attempt=job.attempt,
            queue=job.queue,
            due_ms=job.due_ms,
            wall_ms=wall_ms,
            thread=threading.current_thread() is not threading.main_thread(),
            args=args.get("payload"),
        )
        return job

    def _wall_ms(self) -> float:
        """The host's clock, whatever this process takes for it."""
        return time.time_ns() / 1e6 - self._wrong_by_ms

    def _performed(self, tag: str, job_id: str, due_ms: float | None = None) -> None:
        self.report("accepted", call=f"perform {tag}", tag=tag, ids=[job_id], due_ms=due_ms)

    async def _wait_at(self, gate: str) -> None:
        reader, writer = await asyncio.open_connection(*self._address)
        try:
            writer.write(json.dumps({"gate": gate}).encode() + b"\n")
            await reader.readline()
        finally:
            writer.close()

    def _plain(self, step: list[Any]) -> None:
        match step:
            case ["raise", text]:
                raise ValueError(text)
            case ["raise", text, kind]:
                raise (EXCEPTIONS.get(kind) or getattr(builtins, kind))(text)
            case ["retry", seconds]:
                raise offload.Retry(after=seconds)
            case ["reject", reason]:
                raise offload.Reject(reason)
            case ["kill"]:
                if not self.may_be_killed:
                    raise AssertionError("a job that kills its process came to that of the kit")
                os.kill(os.getpid(), signal.SIGKILL)
            case ["block", seconds]:
                time.sleep(seconds)
            case _:
                raise AssertionError(f"no such step: {step}")


LONGEST_SPELLING = 10_000
"""Characters beyond which a value is told by its digest."""


def spell(value: object) -> str:
    """A value in ASCII, so exactly that two values of one spelling are equal and of the same types.

    The order of keys, the bits of floats and the sign of zero included.
    """
    text = _spell(value)
    if len(text) <= LONGEST_SPELLING:
        return text
    return f"{len(text)} characters, sha256 {hashlib.sha256(text.encode()).hexdigest()}"


def _spell(value: object) -> str:
    if type(value) is dict:
        return "{" + ", ".join(f"{_spell(k)}: {_spell(v)}" for k, v in value.items()) + "}"
    if type(value) is list:
        return "[" + ", ".join(map(_spell, value)) + "]"
    if value is None or type(value) in (str, int, float, bool):
        return ascii(value)
    return f"<{type(value).__qualname__} {value!a}>"


def _refuse_on_a_loop() -> None:
    """Raise, where a `def` handler would hold up an event loop: nobody could open its gate."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise AssertionError("a def handler was called on an event loop")


def _job_of(tag: str, do: dict[str, list[list[Any]]] | None = None) -> offload.Job:
    return offload.Job("act", {"tag": tag, "do": do or {}})


async def _endure(waiting: Coroutine[Any, Any, None]) -> None:
    task = asyncio.create_task(waiting)
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(task)


def _steps(args: offload.Args, attempt: int) -> list[list[Any]]:
    do: dict[str, list[list[Any]]] = args.get("do", {})
    return do.get(str(attempt), do.get("*", []))
