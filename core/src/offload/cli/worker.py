"""`offload worker`: run a worker of an application's own."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path

import click

import offload
from offload.adapters import override_url
from offload.cli import logs
from offload.cli.loading import load_worker
from offload.job import JobContext
from offload.worker import State, StopReport, Worker

LEFT_UNFINISHED = 3
"""The exit code when jobs were cut short or lost."""

EXIT_CODES = """\b
Exit codes:
  0  stopped, and every job that had begun is done
  1  the backend failed, or the worker could not be started
  2  called wrongly
  3  the grace ran out: jobs were cut short and returned to the backend,
     or jobs were lost with this process
A second signal ends the process by that signal: 128 + its number in a shell.
"""


class _NeverStarted:
    """Notes which of the jobs that a drain gives back had not begun.

    The report counts what was taken ahead of a free slot among the returned,
    and on a busy worker there is always some of it: no reason to alarm anybody.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.ids: set[str] = set()

    @offload.hookimpl
    def job_returned(self, job: JobContext) -> None:
        # The engine reads the handler's name only when it launches a job.
        if not job.handler and self._worker.state is State.STOPPING:
            self.ids.add(job.id)


@click.command(epilog=EXIT_CODES)
@click.argument("path", metavar="MODULE:WORKER")
@click.option("--url", help="Use this backend, whatever the module connects to.")
@click.option("--log-format", type=click.Choice(logs.STYLES), default="text", show_default=True)
@click.option(
    "--log-level",
    type=click.Choice(logs.LEVELS, case_sensitive=False),
    default="info",
    show_default=True,
)
def worker(path: str, url: str | None, log_format: str, log_level: str) -> None:
    """Run jobs until SIGTERM or Ctrl-C, then drain.

    MODULE:WORKER names a worker as in myapp.jobs:worker. The current directory is where
    modules are looked for first. A first signal lets running jobs end, for as long as the
    grace in the URL allows; a second one ends the process at once. Logs go to stderr.
    """
    logs.configure(log_format, log_level)
    sys.path.insert(0, str(Path.cwd()))
    with override_url(url) if url else contextlib.nullcontext():
        found = load_worker(path)
    never_started = _NeverStarted(found)
    with contextlib.suppress(offload.UnsupportedError):
        found.observe(never_started)

    async def announce_and_wait() -> None:
        click.echo(f"Running {found!r}. To stop: Ctrl-C or SIGTERM; a second one ends it at once.")
        await asyncio.Event().wait()

    report = offload.run(found, announce_and_wait)
    if _tell(report, never_started.ids):
        sys.exit(LEFT_UNFINISHED)


def _tell(report: StopReport, never_started: set[str]) -> bool:
    """Print what became of the jobs; return whether any was left unfinished."""
    cut_short = [job_id for job_id in report.returned if job_id not in never_started]
    untouched = len(report.returned) - len(cut_short)
    click.echo(
        f"Stopped. In draining, {report.finished} finished, {len(cut_short)} were cut short and "
        f"returned, {untouched} given back before they began, {len(report.lost)} lost."
    )
    if cut_short:
        click.echo("They run again: " + " ".join(cut_short))
    return bool(cut_short or report.lost)
