"""Random schedules against a reference model; a failing one is shrunk, and its history shown.

The model: a job that fails k times of m allowed attempts runs min(k + 1, m) times, as attempts
1, 2, …; a stop and start in between changes nothing of that, and nothing is early.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import offload
from offload_conformance.fixtures import Published
from offload_conformance.history import History
from offload_conformance.lab import Lab
from offload_conformance.plugin import history_key
from offload_conformance.stage import DEADLINE, Stage

MAX_ATTEMPTS = 3
BACKOFF = offload.constant(timedelta(milliseconds=20))
"""Longer than a restart, so that one may come between two attempts."""

PERFORM = st.fixed_dictionaries(
    {
        "step": st.just("perform"),
        "delay": st.sampled_from([None, 0.0, 0.001, 0.02, 0.04]),
        "failures": st.sampled_from([0, 0, 0, 1, 2, 5]),
        "handler": st.sampled_from(["act", "act-plain"]),
    }
)
RESTART = st.just({"step": "restart"})
PLANS = st.lists(st.one_of(PERFORM, PERFORM, PERFORM, RESTART), min_size=1, max_size=12)

model = settings(
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@settings(model, max_examples=8)
@given(plan=PLANS)
def test_PERF_2_random_schedules(
    request: pytest.FixtureRequest,
    offload_url: str,
    offload_published: Published,
    plan: list[dict[str, Any]],
) -> None:
    _play(request, offload_url, offload_published, lambda lab: _restarts(lab, plan))


async def _restarts(lab: Lab, plan: list[dict[str, Any]]) -> None:
    worker = lab.worker(puppets=False, max_attempts=MAX_ATTEMPTS)
    for name in ("act", "act_plain"):
        puppet = getattr(lab.troupe(worker), name)
        worker.register(name.replace("_", "-"), puppet, backoff=BACKOFF)
    await worker.start()
    expected = 0
    for number, step in enumerate(plan):
        if step["step"] == "restart":
            lab.history.add("restart")
            await worker.stop()
            await worker.start()
            continue
        runs = min(step["failures"] + 1, MAX_ATTEMPTS)
        do = {str(n): [["raise", "as planned"]] for n in range(1, step["failures"] + 1)}
        await lab.perform(
            worker, f"job-{number}", do=do, delay=step["delay"], handler=step["handler"]
        )
        expected += runs
    await lab.until_ended(expected)
    await lab.fence(worker)
    for number, step in enumerate(plan):
        if step["step"] == "perform":
            runs = min(step["failures"] + 1, MAX_ATTEMPTS)
            lab.check("attempts", tag=f"job-{number}", expected=list(range(1, runs + 1)))
    lab.check("never_early")


@pytest.mark.slow
@settings(model, max_examples=4)
@given(plan=st.lists(st.one_of(PERFORM, st.just({"step": "kill"})), min_size=2, max_size=8))
def test_DUR_1_random_schedules_with_kills(
    request: pytest.FixtureRequest,
    offload_url: str,
    offload_published: Published,
    plan: list[dict[str, Any]],
) -> None:
    _play(request, offload_url, offload_published, lambda lab: _kills(lab, plan))


async def _kills(lab: Lab, plan: list[dict[str, Any]]) -> None:
    lab.need("durable")
    options, lease = lab.lease
    shared = lab.worker(puppets=False)

    async def perform(tag: str, **job: Any) -> None:
        # Where one process has the backend at a time, it needs the handler, and leaves.
        performer = shared if lab.claims.distributed else lab.worker()
        await lab.perform(performer, tag, **job)
        if not lab.claims.distributed:
            await performer.stop()

    for number, step in enumerate(plan):
        if step["step"] == "perform":
            do = {"1": [["raise", "as planned"]]} if step["failures"] else {}
            await perform(f"job-{number}", do=do, delay=step["delay"])
        else:
            # Killed as soon as it has begun on anything; what it left is the next one's.
            tag = f"held-{number}"
            await perform(tag, do={"1": [["gate", "never"]]})
            async with lab.process(**options) as victim:
                await lab.until_started(1, tag)
                await victim.kill()
    last = lab.worker(max_attempts=100)
    await last.start()
    ids = [job_id for e in lab.history.named("accepted") for job_id in e.what["ids"]]
    await lab.stage.until("every job to end", lambda: set(ids) <= _returned(lab), DEADLINE + lease)
    lab.check("each_ran")
    lab.check("never_early")


def _returned(lab: Lab) -> set[str]:
    return {e.what["id"] for e in lab.history.named("ended") if e.what["how"] == "returned"}


def _play(
    request: pytest.FixtureRequest,
    url: str,
    published: Published,
    scenario: Callable[[Lab], Awaitable[None]],
) -> None:
    """Each example has a stage and a history of its own; the test keeps that of the last."""
    history = History()
    request.node.stash[history_key] = history

    async def main() -> None:
        async with Stage(history) as stage:
            lab = Lab(url, stage, published)
            try:
                await scenario(lab)
            finally:
                await lab.close()

    asyncio.run(main())
