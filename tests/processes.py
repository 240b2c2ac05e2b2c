"""Workers in processes of their own, which a test can freeze and kill."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from loops import use_test_loop
from support import DEADLINE

import offload


class WorkerProcess:
    """A worker in another process, and what its handlers report."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.reports: list[dict[str, Any]] = []
        self._reading = asyncio.create_task(self._read())
        self._changed = asyncio.Event()

    @property
    def pid(self) -> int:
        return self._process.pid

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self.reports.append(json.loads(line))
            self._changed.set()

    async def until(self, event: str, count: int = 1) -> list[dict[str, Any]]:
        """Return the reports of this event when there are so many."""
        async with asyncio.timeout(DEADLINE):
            while len(found := [r for r in self.reports if r["event"] == event]) < count:
                self._changed.clear()
                await self._changed.wait()
        return found

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def kill(self) -> None:
        """End it as a power cut would."""
        if self._process.returncode is None:
            self._process.kill()
        await self.wait()

    async def wait(self) -> int:
        """Its exit code, once it has ended."""
        code = await asyncio.wait_for(self._process.wait(), DEADLINE)
        await self._reading
        return code


@asynccontextmanager
async def worker_process(url: str) -> AsyncIterator[WorkerProcess]:
    """Run this file as a worker; it takes jobs when this is entered."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        __file__,
        url,
        stdout=asyncio.subprocess.PIPE,
    )
    worker = WorkerProcess(process)
    try:
        await worker.until("ready")
        yield worker
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGCONT)
        await worker.kill()


def report(event: str, **what: Any) -> None:
    print(json.dumps({"event": event, **what}), flush=True)


def main(url: str) -> None:
    worker = offload.connect(url)

    def started() -> None:
        job = offload.current_job()
        report("started", id=job.id, attempt=job.attempt, handler=job.handler, at=time.time())

    @worker.handler("note")
    async def note(args: Any) -> None:
        started()

    @worker.handler("hold")
    async def hold(args: Any) -> None:
        started()
        await asyncio.Event().wait()

    @worker.handler("die")
    async def die(args: Any) -> None:
        started()
        os.kill(os.getpid(), signal.SIGKILL)

    @worker.handler("sleep")
    async def sleep(args: Any) -> None:
        started()
        await asyncio.sleep(args["seconds"])
        report("slept", id=offload.current_job().id)

    @worker.handler("block-the-loop")
    async def block(args: Any) -> None:
        started()
        time.sleep(args["seconds"])
        report("slept", id=offload.current_job().id)

    async def ready() -> None:
        report("ready")
        await asyncio.Event().wait()

    offload.run(worker, ready)


if __name__ == "__main__":
    use_test_loop()
    main(sys.argv[1])
