"""`offload dead …`: look at the jobs that failed for good, and decide about them."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from textwrap import indent
from typing import Any

import click

from offload.cli.backend import on_existing_backend, url_argument
from offload.cli.terminal import make_console, make_table
from offload.text import plain
from offload.worker import DeadLetter, DeadLetters, Worker

PAGE = 100

Removal = Callable[[DeadLetters, Sequence[str]], Awaitable[Sequence[str]]]
"""Takes dead letters out, one way or the other, and returns the ids of those that were there."""

Sweep = Callable[[DeadLetters], Awaitable[int]]
"""Takes all of them out, and returns how many they were."""


@click.group()
def dead() -> None:
    """Jobs that failed for good: look, requeue, discard."""


@dead.command("list")
@url_argument
@click.option("--limit", type=click.IntRange(min=1), default=PAGE, show_default=True)
@click.option("--after", metavar="CURSOR", help="Begin behind this place, where a page ended.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def list_(url: str, limit: int, after: str | None, as_json: bool) -> None:
    """A page of dead letters, the oldest first."""

    async def look(worker: Worker) -> Sequence[DeadLetter]:
        return await worker.dead_letters.list(limit, after)

    letters = on_existing_backend(url, look)
    if as_json:
        click.echo(json.dumps([_as_json(letter) for letter in letters], indent=2))
        return
    if not letters:
        click.echo("No dead letters." if after is None else "No more dead letters.")
        return
    console = make_console()
    table = make_table(console, "id", "died", "queue", "handler", "attempts", "error")
    for letter in letters:
        table.add_row(
            letter.id,
            f"{letter.died_at:%Y-%m-%d %H:%M:%SZ}",
            letter.queue,
            letter.handler or "(unreadable)",
            str(letter.attempts),
            # The first line says what it was; `show` has the rest.
            plain(letter.error.partition("\n")[0]),
        )
    console.print(table)
    if len(letters) == limit:
        click.echo(f"There may be more: --after {plain(letters[-1].cursor)}", err=True)


@dead.command()
@click.argument("url")
@click.argument("job_id", metavar="ID")
def show(url: str, job_id: str) -> None:
    """One dead letter, with its args and its traceback."""

    async def look(worker: Worker) -> DeadLetter | None:
        return await worker.dead_letters.show(job_id)

    letter = on_existing_backend(url, look)
    if letter is None:
        raise click.ClickException(f"no dead letter has the id {plain(job_id)}")
    told = {
        "id": letter.id,
        "queue": letter.queue,
        "handler": letter.handler or "(its stored bytes can't be read)",
        "args": json.dumps(letter.args, indent=2),
        "attempts": str(letter.attempts),
        "died": letter.died_at.isoformat(),
        "error": letter.error,
    }
    for name, value in told.items():
        # No line of a foreign text begins where a name stands.
        lines = plain(value, lines=name in ("args", "error")).replace("\n", "\n" + " " * 10)
        click.echo(f"{name + ':':10}{lines}")
    if letter.traceback:
        click.echo("\n" + indent(plain(letter.traceback, lines=True).rstrip(), "  "))


@dead.command()
@click.argument("url")
@click.argument("ids", metavar="[ID]...", nargs=-1)
@click.option("--all", "every", is_flag=True, help="Every dead letter of the backend.")
def requeue(url: str, ids: Sequence[str], every: bool) -> None:
    """Let dead letters run again, as attempt 1."""
    _check_choice(ids, every)
    if every:
        _remove_all(url, "requeued", lambda letters: letters.requeue_all())
    else:
        _remove(url, ids, "requeued", lambda letters, ids: letters.requeue(ids))


@dead.command()
@click.argument("url")
@click.argument("ids", metavar="[ID]...", nargs=-1)
@click.option("--all", "every", is_flag=True, help="Every dead letter of the backend.")
@click.option("--yes", is_flag=True, help="Don't ask.")
def discard(url: str, ids: Sequence[str], every: bool, yes: bool) -> None:
    """Forget dead letters for ever."""
    _check_choice(ids, every)
    if not yes:
        what = "every dead letter of this backend" if every else f"{len(ids)} dead letter(s)"
        click.confirm(f"Forget {what} for ever?", abort=True)
    if every:
        _remove_all(url, "discarded", lambda letters: letters.discard_all())
    else:
        _remove(url, ids, "discarded", lambda letters, ids: letters.discard(ids))


def _check_choice(ids: Sequence[str], every: bool) -> None:
    if every == bool(ids):
        raise click.UsageError("give ids, or --all")


def _remove(url: str, ids: Sequence[str], verb: str, removal: Removal) -> None:
    """Take out the dead letters with these ids, and tell."""

    async def remove(worker: Worker) -> tuple[Sequence[str], list[str], list[str]]:
        letters = worker.dead_letters
        removed = await removal(letters, ids)
        left = [job_id for job_id in dict.fromkeys(ids) if job_id not in removed]
        kept = [job_id for job_id in left if await letters.show(job_id) is not None]
        return removed, kept, [job_id for job_id in left if job_id not in kept]

    removed, kept, missing = on_existing_backend(url, remove)
    click.echo(f"{len(removed):,} {verb}")
    faults = []
    if kept:
        faults.append(f"the backend does not let them be {verb}: {plain(', '.join(kept))}")
    if missing:
        faults.append(f"no dead letter has the id {plain(', '.join(missing))}")
    if faults:
        raise click.ClickException("; ".join(faults))


def _remove_all(url: str, verb: str, sweep: Sweep) -> None:
    """Take out all of them, and tell."""
    count = on_existing_backend(url, lambda worker: sweep(worker.dead_letters))
    click.echo(f"{count:,} {verb}")


def _as_json(letter: DeadLetter) -> dict[str, Any]:
    return {
        "id": letter.id,
        "queue": letter.queue,
        "handler": letter.handler,
        "args": letter.args,
        "attempts": letter.attempts,
        "died_at": letter.died_at.isoformat(),
        "error": letter.error,
        "traceback": letter.traceback,
        "cursor": letter.cursor,
    }
