"""`offload perform`: enqueue one job."""

from __future__ import annotations

from datetime import datetime, timedelta

import click

from offload.cli.backend import on_backend
from offload.cli.params import duration, instant, json_object
from offload.job import Args, Job
from offload.worker import Worker


@click.command()
@click.argument("url")
@click.argument("handler")
@click.option(
    "--args", type=json_object, default="{}", show_default=True, metavar="JSON", help="An object."
)
@click.option("--queue", default="default", show_default=True)
@click.option(
    "--in", "delay", type=duration, metavar="DURATION", help="So much later: 500ms, 30s, 5m, 2d."
)
@click.option("--at", "when", type=instant, metavar="TIME", help="Then: 2027-01-01T09:30:00Z.")
def perform(
    url: str,
    handler: str,
    args: Args,
    queue: str,
    delay: timedelta | None,
    when: datetime | None,
) -> None:
    """Enqueue a job, and print its id.

    It runs in another process, so URL must name a backend that several share.
    """
    if delay is not None and when is not None:
        raise click.UsageError("--in and --at exclude each other")
    job = Job(handler, args, queue)

    async def enqueue(worker: Worker) -> str:
        if delay is not None:
            return await worker.perform_in(job, delay)
        if when is not None:
            return await worker.perform_at(job, when)
        return await worker.perform(job)

    click.echo(on_backend(url, enqueue))
