"""One worker of a soak: `OFFLOAD_URL=URL python -m offload_conformance.soak.crew FILE`.

It writes a line before and after each run, at once, so that a kill takes nothing of it along.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time

import offload
from offload_conformance.soak.ledger import RUNS

BACKOFF_SECONDS = 0.2


def main(file: str) -> None:
    """Work until it is ended."""
    log = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def write(mark: str) -> None:
        job = offload.current_job()
        os.write(log, f"{mark} {job.id} {job.attempt} {time.time_ns() // 1000}\n".encode())

    worker = offload.connect()

    @worker.handler("soak", max_attempts=1000)  # a crash is no reason to give it up
    async def soak(args: offload.Args) -> None:
        write("started")
        await asyncio.sleep(args["seconds"])
        if args["fails"]:
            write("rejected")
            raise offload.Reject("as planned")
        write("done")

    @worker.handler("fail", max_attempts=RUNS, backoff=offload.constant(BACKOFF_SECONDS))
    async def fail(args: offload.Args) -> None:
        write("started")
        await asyncio.sleep(args["seconds"])
        write("failed")
        raise ValueError("as planned")

    offload.run(worker)


if __name__ == "__main__":
    main(*sys.argv[1:])
