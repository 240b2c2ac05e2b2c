"""Performs the jobs of a plan, and sees that each item is accounted for."""

from __future__ import annotations

import asyncio
import contextlib
import time

import click

from offload.cli.demo.handlers import Handlers
from offload.cli.demo.ledger import Item, Kind, Ledger, Outcome, Result
from offload.cli.demo.tally import Tally
from offload.job import Job
from offload.worker import DeadLetter, Worker

BATCH = 500
"""Jobs performed in one step, which a kill may cause to be performed again."""
LOOK_SECONDS = 0.5
"""How long nothing may end before the backend is asked what it still holds."""
PATIENCE_SECONDS = 30.0
"""How long nothing may end before jobs are taken for gone of which the backend can't tell."""
MAX_ROUNDS = 3
"""How often jobs are performed of which the backend then has no trace."""


class Conductor:
    """One run of the demo, on one worker that takes jobs from two queues of the demo's own."""

    def __init__(
        self, worker: Worker, ledger: Ledger, handlers: Handlers, queues: tuple[str, str]
    ) -> None:
        """`queues`: one for the files, one for the few others, which must not wait behind them."""
        self._worker = worker
        self._ledger = ledger
        self._handlers = handlers
        self._queues = queues
        self._letters = worker.dead_letters
        self.tally = Tally()
        self.recovered = 0
        """Jobs of an earlier run that the backend held at the start, as far as it can tell."""
        self.counts_all = True
        """Whether it can tell of all."""
        self.vanished = 0
        """Jobs that were performed and are gone: somebody removed them from the backend."""
        handlers.register(worker)
        worker.observe(self.tally)

    async def run(self) -> None:
        """Start the worker, perform what was not performed yet, and return when all is known."""
        self.recovered = await self._held()
        await self._worker.start()
        for _ in range(MAX_ROUNDS):
            await self._perform()
            await self._follow()
            if not self._ledger.open:
                break
            self.vanished += self._ledger.open
            self._ledger.forget_performed()
        else:
            raise click.ClickException(
                f"{self._ledger.open} jobs vanish from the backend whenever they are performed; "
                "does something else consume its queues?"
            )
        while await self._held():  # what was performed twice
            await self._something_ended()

    async def catch_up(self) -> None:
        """Write down what died while the worker drained, in an event loop of its own."""
        try:
            await self._note_dead()
        finally:
            await self._worker.stop()

    async def _follow(self) -> None:
        """Return when every item is accounted for, or no job is left for those that aren't."""
        idle_since = time.monotonic()
        while self._ledger.open:
            if await self._something_ended():
                await self._note_dead()
                idle_since = time.monotonic()
            elif not await self._held():
                await self._search_dead()
                if self.counts_all or time.monotonic() - idle_since > PATIENCE_SECONDS:
                    return

    async def _perform(self) -> None:
        while batch := self._ledger.unperformed(BATCH):
            at_once = [item for item in batch if not item.delay]
            await self._worker.perform_many([self._job(item) for item in at_once])
            self._ledger.mark_performed(at_once)
            for item in batch:
                if item.delay:
                    await self._worker.perform_in(self._job(item), item.delay)
                    self._ledger.mark_performed([item])
            # A backend in memory makes nobody wait, so the jobs' own turn has to be given to them.
            await asyncio.sleep(0)

    def _job(self, item: Item) -> Job:
        queue = self._queues[item.kind is not Kind.FILE]
        return Job(item.kind, self._handlers.args(item.path), queue)

    async def _held(self) -> int:
        """How many jobs of ours the backend holds, the dead ones apart, as far as it can tell."""
        counts = await self._worker.counts()
        ours = [counts[queue] for queue in self._queues if queue in counts]
        held = [number for each in ours for number in (each.waiting, each.scheduled, each.running)]
        self.counts_all = None not in held
        # What runs here is held for sure.
        least = 0 if self.counts_all else len(self.tally.running)
        return max(least, sum(number or 0 for number in held))

    async def _something_ended(self) -> bool:
        """Wait for the next job to end; False if none does in `LOOK_SECONDS`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_SECONDS):
                await self.tally.changed.wait()
        ended = self.tally.changed.is_set()
        self.tally.changed.clear()
        return ended

    async def _note_dead(self) -> None:
        """Write down the jobs that have died."""
        while self.tally.dead:
            letter = await self._letters.show(self.tally.dead[0])
            if letter is not None:
                self._note(letter)
            del self.tally.dead[0]  # not before: a signal may cut this short

    async def _search_dead(self) -> None:
        """The same for those that died just before a kill, and could not be written down."""
        after = None
        while page := await self._letters.list(BATCH, after):
            for letter in page:
                self._note(letter)
            after = page[-1].cursor

    def _note(self, letter: DeadLetter) -> None:
        if letter.queue not in self._queues or letter.handler is None or letter.args is None:
            return
        if letter.args.get("run") == self._ledger.run:
            result = Result(outcome=Outcome.DEAD, attempt=letter.attempts, note=letter.error)
            self._ledger.record(Kind(letter.handler), letter.args["path"], result)
