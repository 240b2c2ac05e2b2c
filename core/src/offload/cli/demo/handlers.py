"""The jobs of the demo.

Reading a file blocks, so each is a plain `def`: the engine runs it in a thread.
"""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path

import offload
from offload.cli.demo.ledger import Kind, Ledger, Outcome, Result
from offload.cli.demo.reading import read
from offload.worker import Worker

FLAKY_FAILURES = 2
FLAKY_BACKOFF = timedelta(milliseconds=200)

MANY_ATTEMPTS = 1000
"""A run that a kill cut short counts as an attempt, and this demo is made to be killed."""


class Handlers:
    """Handlers that write what they find into a ledger."""

    def __init__(self, folder: Path, ledger: Ledger) -> None:
        self._folder = folder
        self._ledger = ledger
        self._started = time.time()
        self.latest = ""
        """The file that was begun last, for the screen."""

    def register(self, worker: Worker) -> None:
        """Let the worker run them."""
        worker.register(Kind.FILE, self.file, max_attempts=MANY_ATTEMPTS)
        worker.register(Kind.RECHECK, self.recheck, max_attempts=MANY_ATTEMPTS)
        worker.register(
            Kind.FLAKY,
            self.flaky,
            max_attempts=MANY_ATTEMPTS,
            backoff=offload.constant(FLAKY_BACKOFF),
        )
        worker.register(Kind.DOOMED, self.doomed, max_attempts=MANY_ATTEMPTS)

    def args(self, path: str) -> offload.Args:
        """The args of a job of this plan."""
        return {"run": self._ledger.run, "path": path}

    def file(self, args: offload.Args) -> None:
        """Read a file."""
        if self._ledger.knows(args.get("run")):
            self._read(Kind.FILE, args["path"])

    def recheck(self, args: offload.Args) -> None:
        """Read a file again, at the time that was asked for."""
        # Due while no process lived to run it: then it could begin with this one at best.
        due = max(offload.current_job().due_at.timestamp(), self._started)
        lateness = time.time() - due
        if self._ledger.knows(args.get("run")):
            self._read(Kind.RECHECK, args["path"], lateness)

    def flaky(self, args: offload.Args) -> None:
        """Fail twice, as a network would, then succeed."""
        if not self._ledger.knows(args.get("run")):
            return
        attempt = offload.current_job().attempt
        if attempt <= FLAKY_FAILURES:
            raise ConnectionError(f"made to fail at attempt {attempt}")
        self._ledger.record(Kind.FLAKY, "", Result(outcome=Outcome.DONE, attempt=attempt))

    def doomed(self, args: offload.Args) -> None:
        """Say at once that this can never succeed."""
        if self._ledger.knows(args.get("run")):
            raise offload.Reject("the demo made this job to fail for good")

    def _read(self, kind: Kind, path: str, lateness: float | None = None) -> None:
        self.latest = path
        attempt = offload.current_job().attempt
        try:
            found = read(self._folder / path)
        except OSError as error:
            result = Result(
                outcome=Outcome.GONE, attempt=attempt, lateness=lateness, note=str(error)
            )
        else:
            result = Result(
                outcome=Outcome.DONE,
                attempt=attempt,
                lateness=lateness,
                size=found.size,
                digest=found.digest,
                words=found.words,
            )
        self._ledger.record(kind, path, result)
