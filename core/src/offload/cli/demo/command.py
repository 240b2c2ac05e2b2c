"""The command: what to read, on which backend, and what to say in the end."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import sys
from pathlib import Path

import click

import offload
from offload.cli import logs
from offload.cli.backend import backend_file
from offload.cli.demo import screen
from offload.cli.demo.conductor import Conductor
from offload.cli.demo.handlers import Handlers
from offload.cli.demo.ledger import Item, Kind, Ledger, digest_of, ledger_path
from offload.cli.demo.walk import Walk, walk
from offload.cli.terminal import make_console
from offload.config import Address, parse_address

RECHECKS = 5
RECHECK_SECONDS = 0.5
"""The first is due so long after it is performed, and each of the others so long after the last."""
INTERRUPTED = 3
"""The exit code when jobs were left, as that of `offload worker`."""


@click.command()
@click.argument(
    "folder",
    type=click.Path(exists=True, file_okay=False, resolve_path=True, path_type=Path),
    default=".",
)
@click.option("--url", default="simple://", show_default=True, help="The backend to use.")
def demo(folder: Path, url: str) -> None:
    """Watch it work: one job for each file of FOLDER.

    A job takes the size, the SHA-256 and the words of its file, and each is accounted for
    exactly. A few more are scheduled for later, one fails twice before it succeeds, and one
    ends as a dead letter. The files are only read. Default: the current directory.

    On a durable backend, for example --url sqlite:///jobs.db, kill it (kill -9) at any
    moment and run the same command again: it goes on where it was. The jobs are in queues of
    their own; other jobs in the same backend are left alone.

    Exit codes: 0 all is accounted for; 1 and 2 as everywhere; 3 stopped by a signal
    (Ctrl-C), with jobs left.
    """
    address = parse_address(url)
    if "queues" in address.query:
        raise click.UsageError("the demo has queues of its own: leave queues= out of the URL")
    digest = digest_of(folder, address)
    queues = (f"demo-{digest}", f"demo-{digest}-later")
    worker = offload.connect(f"{url}{'&' if '?' in url else '?'}queues={','.join(queues)}")

    file = ledger_path(digest) if worker.claims.durable else None
    ledger = _open(file)
    try:
        databases = [path.resolve() for path in (backend_file(address), file) if path]
        found = walk(folder, databases)
        _plan(ledger, found, folder, address)
        handlers = Handlers(folder, ledger)
        conductor = Conductor(worker, ledger, handlers, queues)
        logs.configure("text", "warning")
        # What becomes of the single jobs is summed up here.
        logging.getLogger("offload.job").setLevel(logging.CRITICAL)
        console = make_console()
        with screen.live(console, lambda: screen.progress(ledger, conductor, handlers)):
            offload.run(worker, conductor.run, worker_off=True)
            asyncio.run(conductor.catch_up())
        console.print(screen.summary(console, found, ledger, conductor))
        click.echo()
        if ledger.open:
            _tell_rest(ledger, durable=worker.claims.durable)
            sys.exit(INTERRUPTED)
        if worker.claims.durable:
            click.echo(f"The dead letter stays there: offload dead list '{address}'")
        ledger.remove()
    finally:
        ledger.close()


def _open(file: Path | None) -> Ledger:
    try:
        return Ledger(file)
    except (OSError, sqlite3.Error) as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY:
            raise click.ClickException(
                "another demo reads this folder on this backend; wait for its end"
            ) from error
        raise click.ClickException(
            f"the ledger {file} can't be used: {error}. Remove it to begin anew"
        ) from error


def _plan(ledger: Ledger, found: Walk, folder: Path, address: Address) -> None:
    """Plan what was found, and say how that compares to an earlier plan."""
    items = [Item(Kind.FILE, path) for path in found.paths]
    if ledger.is_resumed:
        done, planned = ledger.planned - ledger.open, ledger.planned
        new = ledger.plan(items)
        click.echo(f"Going on with {folder} on {address}: {done:,} of {planned:,} jobs were done.")
        if new:
            click.echo(f"The folder has changed: {new:,} files are new, and were added.")
        return
    # The few others first: their time runs while the files are read.
    rechecks = [
        Item(Kind.RECHECK, path, delay=RECHECK_SECONDS * number)
        for number, path in enumerate(found.paths[:RECHECKS], 1)
    ]
    ledger.plan([Item(Kind.FLAKY), Item(Kind.DOOMED), *rechecks, *items])
    click.echo(f"Reading {folder} on {address}: {len(found.paths):,} files.")


def _tell_rest(ledger: Ledger, *, durable: bool) -> None:
    if durable:
        click.echo(f"Stopped with {ledger.open:,} jobs left. The same command goes on with them.")
    else:
        click.echo(
            f"Stopped: {ledger.open:,} jobs are lost, since this backend lives in the process."
        )
