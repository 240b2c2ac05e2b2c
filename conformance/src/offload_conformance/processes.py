"""Workers in processes of their own, which the kit kills and freezes.

`OFFLOAD_URL=URL python -m offload_conformance.processes STAGE NAME` runs one, with puppets. The URL
may hold a password, and what stands on a command line can be read by everybody on the host.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import Process
from typing import Self

import offload
from offload_conformance import wrong_clock
from offload_conformance.checks.runs import running_now, unended_ids
from offload_conformance.puppets import Troupe
from offload_conformance.stage import DEADLINE, Stage
from offload_conformance.tracing import connect

MANY = 10
"""As many ids of jobs are recorded as prove that there were some."""


class WorkerProcess:
    """A worker in another process."""

    def __init__(self, url: str, stage: Stage, name: str, clock: float = 0.0) -> None:
        """`clock` is by how many seconds its clock is wrong."""
        self._url = url
        self._stage = stage
        self._clock = clock
        self.name = name
        self._process: Process | None = None

    async def __aenter__(self) -> Self:
        program, env = "offload_conformance.processes", {**os.environ, "OFFLOAD_URL": self._url}
        if self._clock:
            program, how = "offload_conformance.wrong_clock", wrong_clock.environment(self._clock)
            env |= how
            self._stage.history.add("clock", worker=self.name, off_by=self._clock, **how)
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", program, self._stage.address, self.name), env=env
        )
        try:
            await self._stage.until(f"the worker process {self.name} to start", self._is_ready)
        except BaseException:  # then nobody will leave what was never entered
            await self.__aexit__()
            raise
        return self

    def _is_ready(self) -> bool:
        # A job that it takes within its start may be the first thing that is heard of it.
        heard = self._stage.history.named("ready", "started")
        return any(event.what["worker"] == self.name for event in heard)

    async def __aexit__(self, *_: object) -> None:
        process = self.process
        if process.returncode is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
        await process.wait()

    @property
    def process(self) -> Process:
        """The running process."""
        if self._process is None:
            raise AssertionError("not entered")
        return self._process

    async def kill(self, *, between_jobs: bool = False) -> None:
        """End it as kill -9 does; the history shows what it was doing.

        It hits a handler, or with `between_jobs` any worker that has jobs left.
        """
        history = self._stage.history
        history.add("fault", kind="kill", worker=self.name)
        running = running_now(history.events, self.name)
        left = {"left": unended_ids(history.events)[:MANY]} if between_jobs else {}
        self.process.kill()
        await self.process.wait()
        if running or any(left.values()):
            history.add("fault_hit", kind="kill", running=running, **left)

    async def wait(self) -> int:
        """Its exit code, once it has ended by itself."""
        return await asyncio.wait_for(self.process.wait(), DEADLINE)

    def freeze(self) -> None:
        """Stop it as SIGSTOP does."""
        history = self._stage.history
        history.add("fault", kind="freeze", worker=self.name)
        if running := running_now(history.events, self.name):
            history.add("fault_hit", kind="freeze", running=running)
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._stage.history.add("thawed", worker=self.name)
        self.process.send_signal(signal.SIGCONT)


def main(stage_address: str, name: str, clock: float = 0.0) -> None:
    """Run a worker with puppets until it is ended; its clock is wrong by `clock` seconds."""
    worker = connect()
    troupe = Troupe(stage_address, worker, name, clock)
    troupe.may_be_killed = True
    worker.register("act", troupe.act)
    worker.register("act-plain", troupe.act_plain)
    worker.register("tally", troupe.tally)

    async def ready() -> None:
        troupe.report("ready")
        await asyncio.Event().wait()

    offload.run(worker, ready)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
