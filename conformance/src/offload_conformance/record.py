"""Records what a release leaves in a backend: `python -m offload_conformance.record URL RELEASE`.

Without RELEASE it compares: what is left now must have the form of what was recorded last, or the
next release would change tables, keys or queues and nobody would have seen it.

In a suite of one's own: `from offload_conformance.record import test_the_form_of_what_is_left`.
"""

from __future__ import annotations

import argparse
import asyncio
import difflib
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FunctionType
from typing import Any

import msgspec
import pytest

from offload import Args, DeadLetter, Reject, Retry, Worker, current_job
from offload_conformance.fixtures import FixtureError
from offload_conformance.golden import ARGS
from offload_conformance.golden_states import (
    GoldenState,
    LeftJob,
    LeftLetter,
    Manifest,
    made_portable,
    recorded,
)
from offload_conformance.lab import Lab

AGAIN = 0.05
"""Seconds until a run that failed comes again while the state is made."""
SOON = 5.0
"""Seconds from the state on until what is scheduled is due."""
LATER = 600.0
"""The same of what no test waits for."""
SEEN_DEAD = 0.5
"""Seconds in which a server sees that a worker's process is gone, where nothing else tells."""


@pytest.mark.asyncio  # on itself: the mark of a module doesn't come along into another
async def test_the_form_of_what_is_left(lab: Lab, pytestconfig: pytest.Config) -> None:
    """What the adapter leaves now has the form that was recorded last, unless it is recorded."""
    folder, release = lab.states.folder, pytestconfig.getoption("record")
    state = await leave(lab, release or "now")
    if release:
        state.write(folder)
        return
    last = recorded(folder)[-1:]
    if not last:
        pytest.fail(f"no state is in {folder}: record one", pytrace=False)
    changes = "\n".join(
        difflib.unified_diff(last[0].form, state.form, last[0].release, "now", lineterm="", n=0)
    )
    if changes:
        pytest.fail(
            "what is left has another form than what was recorded last; if that is meant, record "
            f"it under the name of the next release:\n{changes}",
            pytrace=False,
        )


async def leave(lab: Lab, release: str) -> GoldenState:
    """Fill a namespace as a release may leave it, and read what is there."""
    # What a backend makes of a capital couldn't be told from a name that is laid later.
    lab.namespace = lab.namespace.lower()
    performer = lab.worker(puppets=False, queues="default,other")
    dead = await leave_dead(lab, performer)
    options, lease = lab.lease
    left = lease if options else SEEN_DEAD
    jobs = await leave_running(lab, performer, left, options)
    await asyncio.sleep(left)  # until the lease of the worker that was killed has run out
    jobs += await leave_waiting(lab, performer)
    await performer.stop()
    now_ms = time.time_ns() / 1e6
    text = await lab.states.read(namespace=lab.namespace)
    manifest = Manifest([seen_at(now_ms, *each) for each in jobs], dead)
    for each in manifest.all:
        if each.id not in text:
            raise FixtureError(f"read() has left out a job: {each.tag}")
    return GoldenState(release, made_portable(text, lab.namespace, now_ms), manifest)


Due = tuple[LeftJob, float | None]
"""A job, and when it is due, in ms since the epoch; None for one that is."""
Part = dict[str, list[list[Any]]]
"""What a puppet does, by attempt."""


def seen_at(now_ms: float, job: LeftJob, due_ms: float | None) -> LeftJob:
    """How a job must be found, from the time on at which the state is read."""
    left = 0 if due_ms is None else max(0, round(due_ms - now_ms))
    return msgspec.structs.replace(job, due_in_ms=left)


async def perform(
    lab: Lab,
    worker: Worker,
    tag: str,
    do: Part,
    *,
    attempt: int = 1,
    queue: str = "default",
    delay: float | None = None,
) -> Due:
    """Perform a job, and tell how it must be found."""
    job_id = await lab.perform(worker, tag, do=do, payload=ARGS, queue=queue, delay=delay)
    (accepted,) = [e for e in lab.history.named("accepted") if job_id in e.what["ids"]]
    args = {"tag": tag, "do": do, "payload": ARGS}
    job = LeftJob(
        id=job_id, tag=tag, handler="act", queue=queue, args=args, attempt=attempt, due_in_ms=0
    )
    return job, accepted.what["due_ms"]


async def leave_dead(lab: Lab, performer: Worker) -> list[LeftLetter]:
    """Dead letters, one after a second run."""
    if not lab.claims.dead_letters:
        return []
    rejects: list[list[Any]] = [["reject", "no such user"]]
    parts: dict[str, Part] = {
        "dead": {"1": rejects},
        "dead at once": {"1": rejects},
        "dead after two": {"1": [["retry", AGAIN]], "2": rejects},
    }
    worker = lab.worker(puppets=False)
    worker.register("act", die)
    await worker.start()
    jobs, letters = list[LeftJob](), list[DeadLetter]()
    for tag, do in parts.items():
        job, _ = await perform(lab, performer, tag, do)
        jobs.append(job)
        letters = await lab.until_dead(performer, len(jobs))
    await worker.stop()
    return [
        LeftLetter(
            id=job.id,
            tag=job.tag,
            handler=job.handler,
            queue=job.queue,
            args=job.args,
            attempts=letter.attempts,
            error=letter.error,
        )
        for job, letter in zip(jobs, letters, strict=True)
    ]


async def _die(args: Args) -> None:
    """Retry or reject, as the puppet that has this part would."""
    ((step, _),) = args["do"][str(current_job().attempt)]
    raise Retry(after=AGAIN) if step == "retry" else Reject("no such user")


# Its traceback is part of the state, and must be the same wherever and whenever that is made: so
# it has no path, and no source that `linecache` could find.
die = FunctionType(
    _die.__code__.replace(co_filename="golden", co_firstlineno=1),
    {"current_job": current_job, "Retry": Retry, "Reject": Reject, "AGAIN": AGAIN},
)


async def leave_running(
    lab: Lab, performer: Worker, left: float, options: dict[str, Any]
) -> list[Due]:
    """A job that failed and waits for its next run, and one whose worker has died in its second."""
    delay = left + SOON
    failing: Part = {"1": [["retry", AGAIN]], "2": [["retry", delay]]}
    killing: Part = {"1": [["retry", AGAIN]], "2": [["kill"]]}
    async with lab.process(queues="default", concurrency=1, **options) as process:
        retrying, _ = await perform(lab, performer, "retrying", failing, attempt=3)
        await lab.until_ended(2, "retrying")
        ended = lab.history.named("ended")[-1]
        running = await perform(lab, performer, "running", killing, attempt=3)
        await process.wait()
    return [running, (retrying, ended.what["wall_ms"] + delay * 1000)]


async def leave_waiting(lab: Lab, performer: Worker) -> list[Due]:
    """What no worker has ever seen: due now, soon, and later than any test waits."""
    return [
        await perform(lab, performer, "waiting", {}),
        await perform(lab, performer, "waiting behind it", {}),
        await perform(lab, performer, "waiting elsewhere", {}, queue="other"),
        await perform(lab, performer, "scheduled", {}, delay=SOON),
        await perform(lab, performer, "scheduled elsewhere", {}, queue="other", delay=SOON),
        await perform(lab, performer, "scheduled far", {}, delay=LATER),
    ]


def main(arguments: Sequence[str]) -> int:
    """Record, or compare; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m offload_conformance.record")
    parser.add_argument("url", metavar="URL", help="config string of the adapter")
    parser.add_argument("release", metavar="RELEASE", nargs="?", help="record, under this name")
    given = parser.parse_args(arguments)
    options = ["-c", str(Path(__file__).with_name("pytest.ini")), "-o", "addopts=", "--tb=short"]
    options += ["-q", "-p", "no:cacheprovider", "--offload-url", given.url]
    options += ["--record", given.release] if given.release else []
    return pytest.main(["--pyargs", "offload_conformance.record", *options])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
