"""The command `offload soak`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import secrets
import signal
import sys
import tempfile
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console

import offload
from offload import BackendUnavailableError, Job, OffloadError, Worker
from offload.text import plain
from offload_conformance.authors import Server
from offload_conformance.fixtures import authors_of
from offload_conformance.soak.ledger import Accepted, Ledger, Outcome, outcome_of

TICK = 0.1
"""Seconds between two batches of performs."""
LATER = 0.1
"""How many of the jobs are scheduled,"""
REJECT = 0.01
"""how many fail for good at once,"""
FAIL = 0.02
"""and how many each time, until they have had their runs."""
LONGEST_DELAY = 5.0
LONGEST_RUN = 0.02
"""Seconds."""
COULD_NOT_START = 1
"""The exit code of a worker whose backend was away: whoever supervises it starts it again."""
DRAIN_SECONDS = 120.0
"""How long what is left may take in the end."""


def now_us() -> int:
    """The present, in microseconds since the epoch."""
    return time.time_ns() // 1000


@click.command()
@click.argument("url", envvar="OFFLOAD_URL")
@click.option("--jobs", default=100_000, show_default=True, help="How many to perform.")
@click.option("--seconds", default=60.0, show_default=True, help="In how many seconds.")
@click.option("--workers", default=4, show_default=True, help="How many processes work.")
@click.option("--kill-every", default=1.0, show_default=True, help="Seconds between kills of one.")
@click.option(
    "--server-kills",
    default=0,
    show_default=True,
    help="How often the backend is killed; its adapter's author must offer a server for that.",
)
def soak(
    url: str, jobs: int, seconds: float, workers: int, kill_every: float, server_kills: int
) -> None:
    """Perform many jobs on the backend at URL while its workers are killed, and count.

    Prints the numbers as JSON, and exits with 0 only when every accepted job was done or dead,
    none early, and every repeated run explained by a kill.
    """
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory() as folder:
        server = _server_for(url, Path(folder)) if server_kills else None
        scene = Soak(url, Path(folder), server, console)
        try:
            outcome = asyncio.run(scene.run(jobs, seconds, workers, kill_every, server_kills))
        except OffloadError as error:
            raise click.ClickException(plain(str(error))) from None
    click.echo(msgspec.json.format(msgspec.json.encode(outcome)).decode())
    raise SystemExit(0 if outcome.is_right else 1)


def _server_for(url: str, folder: Path) -> Server:
    """The server that an adapter's author offers: `server_for` in the module of their fixtures."""
    for author in authors_of(url):
        if (make := getattr(author.load(), "server_for", None)) is not None:
            server: Server = make(url, folder)
            return server
    raise click.ClickException("the adapter's author offers no server that may be killed")


class Soak:
    """One soak."""

    def __init__(self, url: str, folder: Path, server: Server | None, console: Console) -> None:
        namespace = f"soak-{secrets.token_hex(4)}"
        self._url = f"{url}{'&' if '?' in url else '?'}namespace={namespace}"
        self._folder = folder
        self._server = server
        self._console = console
        self._ledger = Ledger()
        self._crew: dict[str, Process] = {}
        self._hired = 0

    async def run(
        self, jobs: int, seconds: float, workers: int, kill_every: float, server_kills: int
    ) -> Outcome:
        """Perform, kill, wait for the rest, and count."""
        if self._server is not None:
            await self._server.start()
        performer = offload.connect(self._url)
        try:
            await performer.counts()  # a backend that isn't there is told of at once
            async with self._hire(workers):
                async with asyncio.TaskGroup() as tasks:
                    killing = tasks.create_task(self._kill_workers(kill_every))
                    striking = tasks.create_task(self._kill_server(server_kills, seconds))
                    await self._perform(performer, jobs, seconds)
                    await striking
                    killing.cancel()
                await self._until_settled(performer)
            self._read()
        finally:
            await performer.stop()
            if self._server is not None:
                await self._server.kill()
        return outcome_of(self._ledger)

    # -- performing ------------------------------------------------------------

    async def _perform(self, performer: Worker, jobs: int, seconds: float) -> None:
        batch = max(1, round(jobs * TICK / seconds))
        began = time.monotonic()
        for done in range(0, jobs, batch):
            size = min(batch, jobs - done)
            later = round(size * LATER)
            await asyncio.gather(
                self._perform_now(performer, size - later),
                *(self._perform_later(performer) for _ in range(later)),
            )
            ahead = began + (done + size) / jobs * seconds - time.monotonic()
            await asyncio.sleep(max(0.0, ahead))

    async def _perform_now(self, performer: Worker, count: int) -> None:
        async def perform() -> Sequence[str]:
            return await performer.perform_many([_job() for _ in range(count)])

        await self._until_accepted(perform, count)

    async def _perform_later(self, performer: Worker) -> None:
        delay = random.uniform(0, LONGEST_DELAY)

        async def perform() -> Sequence[str]:
            return [await performer.perform_in(_job(), delay)]

        await self._until_accepted(perform, 1, delay)

    async def _until_accepted(
        self, perform: Callable[[], Awaitable[Sequence[str]]], count: int, delay: float = 0.0
    ) -> None:
        while True:
            now = now_us()
            try:
                ids = await perform()
            except BackendUnavailableError as error:
                self._note_failure(error, count)
                await asyncio.sleep(TICK)
            else:
                accepted = Accepted(now, now + int(delay * 1e6))
                self._ledger.accepted.update(dict.fromkeys(ids, accepted))
                return

    def _note_failure(self, error: BackendUnavailableError, count: int) -> None:
        if error.maybe_stored:
            self._ledger.unknown += count
        else:
            self._ledger.refused += count

    # -- killing ---------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _hire(self, workers: int) -> AsyncIterator[None]:
        for _ in range(workers):
            await self._hire_one()
        try:
            yield
        finally:
            for process in self._crew.values():
                if process.returncode is None:  # not one that found the backend away
                    process.send_signal(signal.SIGTERM)
            await asyncio.gather(*(process.wait() for process in self._crew.values()))

    async def _hire_one(self) -> None:
        self._hired += 1
        name = f"worker-{self._hired}"
        self._crew[name] = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "offload_conformance.soak.crew"),
            str(self._folder / name),
            stderr=asyncio.subprocess.DEVNULL,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "", "OFFLOAD_URL": self._url},
        )

    async def _kill_workers(self, every: float) -> None:
        while True:
            await asyncio.sleep(every)
            name = random.choice(list(self._crew))
            process = self._dismiss(name)
            if process.returncode is None:
                begin = now_us()
                process.kill()
                await process.wait()
                self._ledger.worker_kills[name] = (begin, now_us())
            await self._hire_one()

    def _dismiss(self, name: str) -> Process:
        """Take a worker off the crew. One that has ended by itself must have found no backend."""
        process = self._crew.pop(name)
        if process.returncode not in (None, COULD_NOT_START):
            raise RuntimeError(f"{name} ended by itself with {process.returncode}")
        return process

    async def _kill_server(self, times: int, seconds: float) -> None:
        for number in range(times if self._server else 0):
            await asyncio.sleep(seconds / (times + 1))
            begin = now_us()
            await self._server.kill()  # type: ignore[union-attr]
            await self._server.start()  # type: ignore[union-attr]
            self._ledger.server_kills.append((begin, now_us()))
            self._console.print(f"the backend was killed {number + 1} times")

    # -- the end ---------------------------------------------------------------

    async def _until_settled(self, performer: Worker) -> None:
        """Return when every accepted job is done or dead, or when that has taken too long."""
        deadline = time.monotonic() + DRAIN_SECONDS
        while time.monotonic() < deadline:
            await asyncio.sleep(1)
            for name in [name for name, each in self._crew.items() if each.returncode is not None]:
                self._dismiss(name)
                await self._hire_one()
            self._read()
            left = self._ledger.accepted.keys() - self._ledger.done
            if left <= self._ledger.failed:
                with contextlib.suppress(BackendUnavailableError):
                    self._ledger.dead = {each async for each in _dead_ids(performer)}
                    left -= self._ledger.dead
            if not left:
                return
            self._console.print(f"{len(left)} jobs are left")

    def _read(self) -> None:
        """Read anew what all workers have written."""
        self._ledger.runs.clear()
        for file in self._folder.glob("worker-*"):
            self._ledger.read(file.name, file.read_text().splitlines())


def _job() -> Job:
    args: dict[str, Any] = {
        "seconds": random.uniform(0, LONGEST_RUN),
        "fails": random.random() < REJECT,
    }
    return Job("fail" if random.random() < FAIL else "soak", args)


async def _dead_ids(performer: Worker, page: int = 1000) -> AsyncIterator[str]:
    after: str | None = None
    while letters := await performer.dead_letters.list(limit=page, after=after):
        for letter in letters:
            yield letter.id
        after = letters[-1].cursor
