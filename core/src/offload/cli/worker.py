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
from offload.text import plain

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
    with override_url(url) if url is not None else contextlib.nullcontext():
        found = load_worker(path)
    logs.configure_again(log_format, log_level)

    async def announce_and_wait() -> None:
        _tell(f"Running {found!r}. To stop: Ctrl-C or SIGTERM; a second one ends it at once.")
        await asyncio.Event().wait()

    report = offload.run(found, announce_and_wait)
    _tell(
        f"Stopped. In draining, {report.finished} finished, {len(report.returned)} were cut short "
        f"and returned, {len(report.lost)} lost."
    )
    if report.returned:
        _tell("They run again: " + plain(" ".join(report.returned)))
    if report.returned or report.lost:
        sys.exit(LEFT_UNFINISHED)


def _tell(text: str) -> None:
    """Say something; that nobody reads it any more is no reason to end."""
    with contextlib.suppress(OSError):
        click.echo(text)
