"""A library that hands its jobs over, as the engine and the library see it."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import pytest
from support import DEADLINE, Recorder

import offload
import offload_simple
from offload import Delivery, Entry, Job, PushDriver, Reject, Settlement, State, Verdict, constant
from offload.config import parse_address, read_config
from offload.engine import DriverWorker


class Hands(PushDriver):
    """The test is the library: it hands over what was enqueued when it likes."""

    def __init__(self) -> None:
        self.kept: list[Entry] = []
        self.told: list[str] = []
        self.ended = asyncio.Event()

    async def open(self) -> None: ...

    async def enqueue(self, entries: Sequence[Entry]) -> None:
        self.kept += entries

    async def begin(self, queues: Sequence[str]) -> None:
        self.told.append("begin")

    async def end(self) -> None:
        self.told.append("end")
        self.ended.set()

    async def close(self) -> Sequence[str]:
        self.told.append("close")
        return ()

    def hand_over(self, attempt: int = 1, receipt: object = None) -> asyncio.Task[Settlement]:
        """The next that was enqueued."""
        entry = self.kept.pop(0)
        delivery = Delivery(entry.id, entry.queue, entry.body, attempt, 0, receipt)
        return asyncio.create_task(self.run(delivery))


def make_worker(driver: PushDriver, options: str = "") -> DriverWorker:
    url = f"simple://?{options}"
    claims = replace(offload_simple.ADAPTER.claims, fifo=False)
    config = read_config(parse_address(url), ())
    return DriverWorker(driver, config, claims, offload_simple.ADAPTER.limits)


@pytest.fixture
async def library() -> Hands:
    return Hands()


@pytest.fixture
async def worker(library: Hands, recorder: Recorder) -> AsyncIterator[DriverWorker]:
    """Started, with two slots."""
    worker = make_worker(library, "concurrency=2&grace=10s&max_attempts=2")
    worker.register("note", recorder.note)
    worker.register("hold", recorder.hold)
    await worker.start()
    yield worker
    recorder.gate.set()
    async with asyncio.timeout(DEADLINE):
        await worker.stop()


async def verdict_of(run: asyncio.Task[Settlement]) -> Settlement:
    async with asyncio.timeout(DEADLINE):
        return await run


async def test_a_run_returns_the_verdict_with_the_receipt_of_the_library(worker, library):
    await worker.perform(Job("note"))
    mine = object()
    settlement = await verdict_of(library.hand_over(receipt=mine))
    assert settlement.verdict is Verdict.ACKNOWLEDGE
    assert settlement.delivery.receipt is mine


async def test_a_failure_is_a_verdict_to_carry_out(worker, library, recorder):
    worker.register("fails", recorder.failing(9), backoff=constant(3))
    worker.register("rejects", recorder.failing(9, Reject))
    await worker.perform_many([Job("fails"), Job("fails"), Job("rejects")])
    again = await verdict_of(library.hand_over(attempt=1))
    assert (again.verdict, again.delay_ms) == (Verdict.RETRY, 3000)
    last = await verdict_of(library.hand_over(attempt=2))
    assert last.verdict is Verdict.DEAD_LETTER
    assert last.failure.attempts == 2
    assert "ValueError" in last.failure.error
    assert (await verdict_of(library.hand_over())).verdict is Verdict.DEAD_LETTER


async def test_what_is_handed_over_beyond_the_slots_waits_for_one(worker, library, recorder):
    await worker.perform_many([Job("hold")] * 4)
    runs = [library.hand_over() for _ in range(2)]
    await recorder.until_started(2)
    runs += [library.hand_over() for _ in range(2)]
    recorder.gate.set()
    verdicts = [await verdict_of(run) for run in runs]
    assert recorder.most_running == 2
    assert {each.verdict for each in verdicts} == {Verdict.ACKNOWLEDGE}


async def test_a_drain_tells_the_library_before_its_jobs_have_ended(worker, library, recorder):
    await worker.perform_many([Job("hold")] * 4)
    running = [library.hand_over() for _ in range(2)]
    await recorder.until_started(2)
    waiting = library.hand_over()
    stop = asyncio.create_task(worker.stop())
    async with asyncio.timeout(DEADLINE):
        await library.ended.wait()
    assert (await verdict_of(waiting)).verdict is Verdict.RELEASE
    assert (await verdict_of(library.hand_over())).verdict is Verdict.RELEASE  # against its word
    assert not any(run.done() for run in running)
    recorder.gate.set()
    assert [(await verdict_of(run)).verdict for run in running] == [Verdict.ACKNOWLEDGE] * 2
    assert (await stop).finished == 2
    assert library.told == ["begin", "end", "close"]


async def test_what_is_handed_over_before_a_start_goes_back(library):
    delivery = Delivery("id", "default", b"{}", 1, 0, None)
    assert (await library.run(delivery)).verdict is Verdict.RELEASE


async def test_a_library_in_a_thread_runs_its_jobs_on_the_loop_of_the_worker(worker, library):
    await worker.perform(Job("note"))
    entry, loop = library.kept.pop(), asyncio.get_running_loop()
    delivery = Delivery(entry.id, entry.queue, entry.body, 1, 0, None)

    def work() -> Settlement:
        return asyncio.run_coroutine_threadsafe(library.run(delivery), loop).result(DEADLINE)

    assert (await asyncio.to_thread(work)).verdict is Verdict.ACKNOWLEDGE


async def test_the_handler_of_a_cancelled_run_is_cancelled(worker, library, recorder):
    await worker.perform(Job("hold"))
    run = library.hand_over()
    await recorder.until_started(1)
    run.cancel()
    await recorder.until(lambda: recorder.ended != [])
    assert not recorder.gate.is_set()


async def test_a_run_that_is_cancelled_while_it_waits_never_begins(worker, library, recorder):
    await worker.perform_many([Job("hold")] * 2 + [Job("note")] * 2)
    runs = [library.hand_over() for _ in range(2)]
    await recorder.until_started(2)
    given_up = library.hand_over()
    await asyncio.sleep(0)  # it has been handed over
    given_up.cancel()
    await asyncio.wait([given_up])
    recorder.gate.set()
    await asyncio.wait(runs)
    await verdict_of(library.hand_over())  # behind it, so that it would have run by now
    assert [job.handler for job in recorder.started] == ["hold", "hold", "note"]


async def test_a_start_that_fails_ends_what_had_begun_and_may_come_again(library, recorder):
    async def fails(queues: Sequence[str]) -> None:
        raise offload.BackendUnavailableError("not now")

    library.begin = fails
    worker = make_worker(library)
    worker.register("note", recorder.note)
    with pytest.raises(offload.BackendUnavailableError):
        await worker.start()
    assert (worker.state, library.told) == (State.NEW, ["end", "close"])
    del library.begin
    async with worker:
        await worker.perform(Job("note"))
        assert (await verdict_of(library.hand_over())).verdict is Verdict.ACKNOWLEDGE


async def test_a_start_that_is_cancelled_ends_what_had_begun(library):
    begun = asyncio.Event()

    async def hangs(queues: Sequence[str]) -> None:
        begun.set()
        await asyncio.Event().wait()

    library.begin = hangs
    worker = make_worker(library)
    start = asyncio.create_task(worker.start())
    await begun.wait()
    start.cancel()
    await asyncio.wait([start])
    assert (worker.state, library.told) == (State.NEW, ["end", "close"])


async def test_an_end_that_raises_is_told_and_the_worker_stops(library, caplog):
    async def fails() -> None:
        raise ZeroDivisionError

    library.end = fails
    worker = make_worker(library)
    await worker.start()
    await worker.stop()
    assert library.told == ["begin", "close"]
    assert any("failed to close" in record.message for record in caplog.records)


async def test_an_end_that_hangs_holds_up_no_stop(library):
    library.end = asyncio.Event().wait
    worker = make_worker(library, "grace=0s")
    await worker.start()
    began = time.monotonic()
    async with asyncio.timeout(DEADLINE):
        await worker.stop()
    assert time.monotonic() - began < 1.5
    assert library.told == ["begin", "close"]
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "offload-intake"]


class Held:
    """What a receipt holds on to."""


async def test_nothing_of_a_job_is_kept_that_has_its_verdict(worker, library):
    await worker.perform(Job("note"))
    held = Held()
    gone = weakref.ref(held)
    run = library.hand_over(receipt=held)
    await verdict_of(run)
    del run, held
    await worker.stop()
    gc.collect()
    assert gone() is None
