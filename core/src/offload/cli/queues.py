"""`offload queues`: how much there is of everything."""

from __future__ import annotations

import json

import click
import msgspec

from offload.cli.backend import on_existing_backend, url_argument
from offload.cli.terminal import make_console, make_table


@click.command()
@url_argument
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def queues(url: str, as_json: bool) -> None:
    """Count the jobs of each queue, by state.

    A retry that waits for its time is among the scheduled; what a worker has
    taken ahead of a free slot is among the running. What the backend can't tell
    is shown as ?, and as null in JSON. Some backends can look only at the queues
    that URL names, as in ?queues=default,mail.
    """
    counts = on_existing_backend(url, lambda worker: worker.counts())
    by_queue = {queue: msgspec.to_builtins(numbers) for queue, numbers in counts.items()}
    if as_json:
        click.echo(json.dumps(by_queue, indent=2))
        return
    if not by_queue:
        click.echo("No queue holds a job.")
        return
    console = make_console()
    table = make_table(console, "queue", "waiting", "scheduled", "running", "dead")
    for column in table.columns[1:]:
        column.justify = "right"
    for queue, numbers in by_queue.items():
        table.add_row(queue, *map(_shown, numbers.values()))
    console.print(table)
    if any(None in numbers.values() for numbers in by_queue.values()):
        click.echo("?: this backend can't tell")


def _shown(number: int | None) -> str:
    return "?" if number is None else f"{number:,}"
