"""What `worker.sync` performs goes to a driver that stores from threads, with no event loop."""

from __future__ import annotations

import asyncio
import ctypes
import functools
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime

import pytest

import offload
import offload_simple
from offload import BackendError, BackendUnavailableError, Entry, Job, State, WorkerStoppedError
from offload.config import parse_address, read_config
from offload.engine import DriverWorker, sync_outbox
from offload.engine.outbox import MAX_BATCH
from offload_simple.driver import SimpleDriver

DEADLINE = 20.0


class PlainDriver(SimpleDriver):
    """Keeps what threads store, as the test says."""

    def __init__(self, config) -> None:
        super().__init__(config)
        self.opened = 0
        self.batches: list[list[Entry]] = []
        self.threads: list[threading.Thread] = []
        self.closed = 0
        self.gate = threading.Event()
        self.gate.set()
        self.begun = threading.Semaphore(0)
        self.errors: list[BaseException] = []
        self.amid: Callable[[], object] = lambda: None
        self.hangs_on = False
        """Whether a call goes on to wait for its gate when the driver is closed."""

    async def open(self) -> None:
        self.opened += 1
        await super().open()

    def enqueue_sync(self, entries: Sequence[Entry]) -> None:
        closed = self.closed
        self.batches.append(list(entries))
        self.threads.append(threading.current_thread())
        self.begun.release()
        self.amid()
        deadline = time.monotonic() + DEADLINE
        while not self.gate.wait(0.005):
            assert time.monotonic() < deadline
            if self.closed > closed and not self.hangs_on:
                raise BackendUnavailableError("closed amid a call", maybe_stored=True)
        if self.errors:
            raise self.errors.pop(0)

    def close_sync(self) -> None:
        self.closed += 1

    def claim_notes(self):
        return {"durable": "as far as this test"} if self.batches else {}

    def until_begun(self) -> None:
        assert self.begun.acquire(timeout=DEADLINE)


def make(query: str = "grace=0s") -> tuple[DriverWorker, PlainDriver]:
    config = read_config(parse_address(f"simple://?{query}"), ())
    driver = PlainDriver(config)
    claims = replace(offload_simple.ADAPTER.claims, distributed=True)
    another = functools.partial(PlainDriver, config)
    return DriverWorker(driver, config, claims, offload_simple.ADAPTER.limits, another), driver


@pytest.fixture
def threads():
    with ThreadPoolExecutor(8) as pool:
        yield pool


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def in_line(worker: DriverWorker, count: int) -> None:
    """Return when `count` calls wait for another one."""
    until(lambda: len(worker.sync_reach.outbox._waiting) == count)


def queue_up(
    threads: ThreadPoolExecutor, worker: DriverWorker, driver: PlainDriver, *jobs: list[Job]
) -> list[Future]:
    """One call that holds the driver, and behind it one for each of these, in order."""
    driver.gate.clear()
    calls = [threads.submit(worker.sync.perform, Job("first"))]
    driver.until_begun()
    for number, each in enumerate(jobs, 1):
        calls.append(threads.submit(worker.sync.perform_many, each))
        in_line(worker, number)
    return calls


def handlers(batch: Sequence[Entry]) -> list[str]:
    return [entry.body.partition(b'"handler":"')[2].partition(b'"')[0].decode() for entry in batch]


# -- the way -----------------------------------------------------------------------


def test_it_is_stored_in_the_calling_thread_and_no_loop_is_made():
    worker, driver = make()
    before = set(threading.enumerate())
    first = worker.sync.perform(Job("a", {"n": 1}))
    second = worker.sync.perform_in(Job("b"), 2)
    worker.sync.perform_at(Job("c"), datetime(2001, 9, 9, 1, 46, 40, tzinfo=UTC))
    ids = worker.sync.perform_many([Job("d"), Job("e", queue="other")])
    assert set(threading.enumerate()) == before
    assert set(driver.threads) == {threading.current_thread()}
    assert worker.loop is None and not driver.opened and worker.state is State.NEW
    assert [handlers(batch) for batch in driver.batches] == [["a"], ["b"], ["c"], ["d", "e"]]
    assert [entry.id for batch in driver.batches for entry in batch][:2] == [first, second]
    assert [entry.id for entry in driver.batches[3]] == ids
    assert driver.batches[1][0].delay_ms == 2000
    assert driver.batches[2][0].at_ms == 1_000_000_000_000
    assert driver.batches[3][1].queue == "other"
    worker.sync.stop()
    assert driver.closed == 1 and not driver.opened


def test_what_the_driver_has_learned_of_its_claims_is_noted():
    worker, _ = make()
    worker.sync.perform(Job("a"))
    assert worker.claims.notes["durable"] == "as far as this test"
    worker.sync.stop()


def test_what_is_refused_stores_nothing():
    worker, driver = make()
    for call, error in (
        (lambda: worker.sync.perform(Job("no name")), offload.InvalidJobError),
        (lambda: worker.sync.perform("x"), offload.InvalidJobError),
        (lambda: worker.sync.perform(Job("a", {"x": b""})), offload.InvalidJobError),
        (lambda: worker.sync.perform(Job("a", queue="no queue")), offload.InvalidJobError),
        (lambda: worker.sync.perform(Job("a", {"x": "x" * (2 << 20)})), offload.JobTooLargeError),
        (lambda: worker.sync.perform_in(Job("a"), float("nan")), offload.InvalidJobError),
        (lambda: worker.sync.perform_in(Job("a"), 1e11), offload.UnsupportedError),
        (lambda: worker.sync.perform_at(Job("a"), 5), offload.InvalidJobError),
    ):
        with pytest.raises(error):
            call()
    with pytest.raises(offload.InvalidJobError, match=r"job 1 of 2"):
        worker.sync.perform_many([Job("a"), Job("no name")])
    assert driver.batches == []


async def test_on_the_loop_of_the_worker_it_is_refused():
    worker, driver = make()
    async with worker:
        with pytest.raises(offload.UsageError, match="use await"):
            worker.sync.perform(Job("a"))
        await asyncio.to_thread(worker.sync.perform, Job("a"))
    assert len(driver.batches) == 1


async def test_it_overlaps_with_what_the_loop_calls_and_needs_no_open_driver(threads):
    worker, driver = make()
    driver.gate.clear()
    call = threads.submit(worker.sync.perform, Job("a"))
    await asyncio.to_thread(driver.until_begun)
    assert not driver.opened
    async with worker:
        worker.register("b", print)
        await worker.perform(Job("b"))
        assert not call.done()
        driver.gate.set()
        await asyncio.wait_for(asyncio.wrap_future(call), DEADLINE)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_child_of_a_fork_has_a_driver_of_its_own():
    worker, driver = make()
    worker.sync.perform(Job("a"))
    child = os.fork()
    if child == 0:
        code = 1
        try:
            worker.sync.perform(Job("b"))
            own = worker._driver
            code = 0 if own is not driver and len(own.batches) == len(driver.batches) == 1 else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    worker.sync.perform(Job("c"))
    assert [handlers(batch) for batch in driver.batches] == [["a"], ["c"]]
    assert not driver.closed


def test_observers_hear_of_each_job_in_the_thread_that_performs():
    told = []

    class Observer:
        @offload.hookimpl
        def job_enqueued(self, job):
            told.append((job.id, job.handler, threading.current_thread()))

    worker, _ = make()
    worker.observe(Observer())
    ids = [worker.sync.perform(Job("a")), *worker.sync.perform_many([Job("b"), Job("c")])]
    here = threading.current_thread()
    assert told == [(job_id, name, here) for job_id, name in zip(ids, "abc", strict=True)]


# -- many threads ------------------------------------------------------------------


def test_what_comes_while_one_batch_is_on_its_way_forms_the_next(threads):
    worker, driver = make()
    calls = queue_up(threads, worker, driver, [Job("b")], [Job("c"), Job("d")], [Job("e")])
    driver.gate.set()
    for call in calls:
        call.result(DEADLINE)
    assert [handlers(batch) for batch in driver.batches] == [["first"], ["b", "c", "d", "e"]]


def test_no_batch_is_larger_than_the_limits(threads):
    worker, driver = make()
    many, large = [Job("a")] * (MAX_BATCH - 1), [Job("l", {"x": "x" * 1_000_000})] * 4
    calls = queue_up(threads, worker, driver, many, [Job("b")], [Job("c")], large, large)
    driver.gate.set()
    for call in calls:
        call.result(DEADLINE)
    assert [len(batch) for batch in driver.batches] == [1, MAX_BATCH, 1 + 4, 4]


def test_calls_never_overlap_and_lose_nothing(threads):
    worker, driver = make()
    inside, most = [], []

    def amid():
        inside.append(1)
        most.append(len(inside))
        time.sleep(0)
        inside.pop()

    driver.amid = amid

    def perform(_):
        return [worker.sync.perform(Job("a")) for _ in range(100)]

    ids = [job_id for part in threads.map(perform, range(8)) for job_id in part]
    assert max(most) == 1
    assert sorted(ids) == sorted(entry.id for batch in driver.batches for entry in batch)


@pytest.mark.parametrize("maybe_stored", [False, True])
def test_an_error_reaches_every_caller_of_its_batch_and_the_next_goes_on(threads, maybe_stored):
    worker, driver = make()
    calls = queue_up(threads, worker, driver, [Job("b")], [Job("c")], [Job("d")])
    driver.errors += [
        BackendError("first"),
        BackendUnavailableError("second", maybe_stored=maybe_stored),
    ]
    driver.gate.set()
    errors = [call.exception(DEADLINE) for call in calls]
    assert [str(error) for error in errors] == ["first", "second", "second", "second"]
    assert [error.maybe_stored for error in errors] == [False, *[maybe_stored] * 3]
    assert len({id(error) for error in errors}) == 4, "an error holds the frames of its caller"
    assert {type(error) for error in errors[1:]} == {BackendUnavailableError}
    worker.sync.perform(Job("e"))


def test_an_outage_makes_nobody_wait_for_all_before(threads):
    """PERF-8: those who found no room in a batch that fails are not sent one after the other."""
    worker, driver = make()
    full = [Job("a")] * MAX_BATCH
    calls = queue_up(threads, worker, driver, full, full, full)
    driver.errors += [
        BackendUnavailableError("away"),
        BackendUnavailableError("away", maybe_stored=True),
    ]
    driver.gate.set()
    errors = [call.exception(DEADLINE) for call in calls]
    assert [error.maybe_stored for error in errors] == [False, True, False, False]
    assert len(driver.batches) == 2


def test_what_no_driver_should_raise_is_told_to_the_others_of_its_batch(threads):
    worker, driver = make()
    calls = queue_up(threads, worker, driver, [Job("b")], [Job("c")])
    driver.errors += [ValueError("odd"), ValueError("odder")]
    driver.gate.set()
    first, second, third = (call.exception(DEADLINE) for call in calls)
    assert str(first) == "odd" and str(second) == "odder"
    assert isinstance(third, BackendUnavailableError) and third.maybe_stored
    assert "odder" in str(third)


def test_an_error_says_how_many_of_a_call_are_stored():
    worker, driver = make()
    driver.gate.set()
    failing = [None, BackendUnavailableError("away")]
    driver.amid = lambda: (error := failing.pop(0)) and driver.errors.append(error)
    with pytest.raises(BackendUnavailableError, match=f"the first {MAX_BATCH} of 1500") as caught:
        worker.sync.perform_many([Job("a")] * 1500)
    assert caught.value.maybe_stored


def test_an_error_that_can_not_be_copied_reaches_every_caller_all_the_same(threads):
    class OddError(BackendError):
        def __init__(self, text, *, why):
            super().__init__(f"{text}: {why}")

    worker, driver = make()
    calls = queue_up(threads, worker, driver, [Job("b")], [Job("c")])
    driver.errors += [BackendError("first"), OddError("odd", why="so")]
    driver.gate.set()
    errors = [call.exception(DEADLINE) for call in calls]
    assert [str(error) for error in errors] == ["first", "odd: so", "odd: so"]
    assert isinstance(errors[2], BackendUnavailableError) and not errors[2].maybe_stored


def test_a_driver_that_fails_to_tell_its_claims_fails_no_call(caplog):
    worker, driver = make()
    driver.claim_notes = lambda: 1 / 0
    worker.sync.perform(Job("a"))
    assert "claims" in caplog.text
    worker.sync.stop()


# -- interruptions -----------------------------------------------------------------


def test_a_sender_that_is_interrupted_holds_nobody_up(threads):
    worker, driver = make()
    calls = queue_up(threads, worker, driver, [Job("b")], [Job("c")])
    driver.errors += [KeyboardInterrupt(), KeyboardInterrupt()]
    driver.gate.set()
    first, second, third = (call.exception(DEADLINE) for call in calls)
    assert isinstance(first, KeyboardInterrupt) and isinstance(second, KeyboardInterrupt)
    assert isinstance(third, BackendUnavailableError) and third.maybe_stored
    worker.sync.perform(Job("d"))


def test_who_is_interrupted_in_the_line_has_nothing_stored(threads, monkeypatch):
    monkeypatch.setattr(sync_outbox, "RESCUE_SECONDS", 0.01)
    worker, driver = make()
    idents, over = [], []

    def perform():
        idents.append(threading.get_ident())
        try:
            worker.sync.perform(Job("b"))
        except SystemExit as error:
            over.append(error)

    calls = queue_up(threads, worker, driver)
    interrupted = threading.Thread(target=perform)
    interrupted.start()
    in_line(worker, 1)
    ident = ctypes.c_ulong(idents[0])
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, ctypes.py_object(SystemExit))
    interrupted.join(DEADLINE)
    assert over
    last = threads.submit(worker.sync.perform, Job("c"))
    in_line(worker, 1)
    driver.gate.set()
    for call in (*calls, last):
        call.result(DEADLINE)
    assert [handlers(batch) for batch in driver.batches] == [["first"], ["c"]]


def test_a_sender_that_was_cut_off_without_a_word_is_found_out(threads, monkeypatch):
    """As an exception from outside may, that strikes where it would have told the others."""
    monkeypatch.setattr(sync_outbox, "RESCUE_SECONDS", 0.01)
    worker, driver = make()
    leave = sync_outbox.SyncOutbox._leave
    cut = [True]

    def cut_once(self, call, error):
        if cut:
            cut.pop()
            raise SystemExit
        leave(self, call, error)

    calls = queue_up(threads, worker, driver, [Job("b")])
    monkeypatch.setattr(sync_outbox.SyncOutbox, "_leave", cut_once)
    driver.gate.set()
    assert isinstance(calls[0].exception(DEADLINE), SystemExit)
    calls[0].exception(DEADLINE).__traceback__ = None  # it has the frames
    calls[1].result(DEADLINE)
    worker.sync.perform(Job("c"))
    assert worker.sync_reach.outbox.is_idle


def test_who_was_lost_on_the_way_comes_into_the_line_again(threads, monkeypatch):
    """As by an exception from outside in the steps by which one call lets the next one send."""
    monkeypatch.setattr(sync_outbox, "RESCUE_SECONDS", 0.01)
    worker, driver = make()
    calls = queue_up(threads, worker, driver, [Job("b")])
    worker.sync_reach.outbox._waiting.clear()
    in_line(worker, 1)  # again
    driver.gate.set()
    for call in calls:
        call.result(DEADLINE)
    assert [handlers(batch) for batch in driver.batches] == [["first"], ["b"]]


def test_a_perform_amid_another_of_its_thread_goes_by_the_loop(caplog):
    """As by a handler of the log that performs, or a signal handler."""
    worker, driver = make("grace=1s")
    amid = []

    class Performs(logging.Handler):
        def emit(self, record):
            driver.amid = lambda: None
            amid.append(worker.sync.perform(Job("amid")))

    handler, log = Performs(), logging.getLogger("a driver")
    log.addHandler(handler)
    driver.amid = lambda: log.warning("connects")
    worker.register("amid", print)
    try:
        worker.sync.perform(Job("outer"))
    finally:
        log.removeHandler(handler)
    assert [handlers(batch) for batch in driver.batches] == [["outer"]]
    assert driver.opened == 1 and len(amid) == 1
    assert worker.sync.counts()["default"].waiting == 1
    worker.sync.stop()


# -- the end -------------------------------------------------------------------------


def test_after_a_stop_nothing_is_stored_until_it_starts_again():
    worker, driver = make()
    worker.sync.perform(Job("a"))
    worker.sync.stop()
    for call in (worker.sync.perform, lambda job: worker.sync.perform_many([job])):
        with pytest.raises(WorkerStoppedError):
            call(Job("b"))
    assert len(driver.batches) == 1 and driver.closed == 1
    worker.sync.start()
    worker.sync.perform(Job("c"))
    worker.sync.stop()
    assert [handlers(batch) for batch in driver.batches] == [["a"], ["c"]]
    assert driver.closed == 2


def test_a_stop_waits_for_what_is_on_its_way(threads):
    worker, driver = make("grace=20s")
    calls = queue_up(threads, worker, driver, [Job("b")])
    stopping = threads.submit(worker.sync.stop)
    until(lambda: worker.state is State.STOPPING)
    with pytest.raises(WorkerStoppedError):
        worker.sync.perform(Job("c"))
    assert not driver.closed
    driver.gate.set()
    for call in (*calls, stopping):
        call.result(DEADLINE)
    assert [handlers(batch) for batch in driver.batches] == [["first"], ["b"]]
    assert driver.closed == 1


def test_a_stop_ends_what_outlasts_it(threads):
    worker, driver = make()
    calls = queue_up(threads, worker, driver, [Job("b")])
    began = time.monotonic()
    worker.sync.stop()
    assert time.monotonic() - began < 1.5
    first, second = (call.exception(DEADLINE) for call in calls)
    assert isinstance(first, BackendUnavailableError) and first.maybe_stored
    assert isinstance(second, WorkerStoppedError) and not second.maybe_stored
    assert len(driver.batches) == 1
    assert not [t for t in threading.enumerate() if t.name.startswith("offload-")]


def test_a_call_that_nothing_ends_disconnects_behind_the_stop(threads):
    worker, driver = make()
    driver.hangs_on = True
    (call,) = queue_up(threads, worker, driver)
    began = time.monotonic()
    worker.sync.stop()
    assert time.monotonic() - began < 1.5
    closed = driver.closed
    driver.gate.set()
    call.result(DEADLINE)
    until(lambda: driver.closed == closed + 1)


def test_a_loop_that_was_closed_without_a_stop_ends_performing():
    worker, driver = make()

    async def begin():
        await worker.start()

    loop = asyncio.new_event_loop()
    loop.run_until_complete(begin())
    worker.sync.perform(Job("a"))
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    with pytest.raises((WorkerStoppedError, BackendUnavailableError)):
        worker.sync.perform(Job("b"))
    assert worker.state is State.STOPPED
    assert len(driver.batches) == 1
    worker.sync.stop()
