"""Tasks may be cancelled by the application, or before they have begun: no slot is lost."""

from __future__ import annotations

import asyncio
import logging

import pytest

import offload
from offload import Job
from offload.engine.run import Interruption

DEADLINE = 20.0


async def until(condition) -> None:
    async with asyncio.timeout(DEADLINE):
        while not condition():
            await asyncio.sleep(0.002)


async def test_a_handler_that_cancels_every_task_of_the_loop_costs_no_slot(caplog):
    worker = offload.connect("simple://?concurrency=4&max_attempts=2&grace=2s")
    ran: list[int] = []

    @worker.handler("job", backoff=offload.constant(0))
    async def job(args):
        ran.append(args["n"])
        if args["n"] == 0 and offload.current_job().attempt == 1:
            for task in asyncio.all_tasks() - {asyncio.current_task(), main}:
                task.cancel()

    main = asyncio.current_task()
    await worker.start()
    await worker.perform_many([Job("job", {"n": n}) for n in range(12)])
    await until(lambda: set(ran) == set(range(12)))
    await worker.perform(Job("job", {"n": 12}))
    await until(lambda: 12 in ran)
    runner, settler = worker._dispatcher._runner, worker._dispatcher._settler
    await until(lambda: not (worker._slots.busy or runner.runs or settler.unsettled))
    lines = [record for record in caplog.records if record.levelno == logging.CRITICAL]
    assert {line.getMessage() for line in lines} == {
        "the worker's fetch loop was cancelled by the application; it begins again",
        "the worker's settle loop was cancelled by the application; it begins again",
    }
    report = await worker.stop()
    assert report.lost == ()


@pytest.mark.parametrize("why", list(Interruption), ids=lambda why: why.name)
@pytest.mark.parametrize("kind", ["async def", "def"])
async def test_a_run_that_is_cancelled_before_its_first_step_frees_its_slot(kind, why):
    worker = offload.connect("simple://?concurrency=2")
    begun: list[object] = []

    async def async_handler(args):
        begun.append(args)

    handler = begun.append if kind == "def" else async_handler
    worker.register("job", handler, backoff=offload.constant(0), timeout=60)
    await worker.start()
    runner = worker._dispatcher._runner
    begin = runner._begin

    def begin_and_interrupt(run):
        runner._begin = begin
        begin(run)
        runner.interrupt(run, why)

    runner._begin = begin_and_interrupt
    await worker.perform(Job("job"))
    await until(lambda: runner._begin is begin and not worker._slots.busy)
    assert not runner.runs
    if why is not Interruption.LEASE_LOST:  # then another worker has it
        await until(lambda: begun)
    await worker.stop()


async def test_a_program_that_ends_without_a_stop_is_not_held_up(caplog):
    """`asyncio.run` cancels every task in the end, and waits for all of them."""

    async def main() -> None:
        worker = offload.connect("simple://")
        await worker.start()

    await asyncio.to_thread(asyncio.run, asyncio.wait_for(main(), DEADLINE))
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
