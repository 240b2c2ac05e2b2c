"""`offload perform`: enqueue one job."""

from __future__ import annotations

from datetime import datetime, timedelta

import click

from offload.cli.backend import on_backend
from offload.cli.params import Duration, Instant, JsonObject
from offload.job import Args, Job
from offload.worker import Worker


@click.command()
@click.argument("url")
@click.argument("handler")
@click.option("--args", type=JsonObject(), default=dict, help="A JSON object.  [default: {}]")
@click.option("--queue", default="default", show_default=True)
@click.option(
    "--in", "delay", type=Duration(), help="Run it so much later: 500ms, 30s, 5m, 1h, 2d."
)
@click.option("--at", "when", type=Instant(), help="Run it then: 2027-01-01T09:30:00Z.")
def perform(
    url: str,
    handler: str,
    args: Args,
    queue: str,
    delay: timedelta | None,
    when: datetime | None,
) -> None:
    """Enqueue a job for HANDLER on the backend at URL, and print its id.

    The backend must be one that several processes share: the handler runs in another.
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
