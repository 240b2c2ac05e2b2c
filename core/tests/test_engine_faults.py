"""Faults at every call between fetch and settle: each delivery is settled, or still running."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging

import pytest
from faulty import faulty_worker
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import offload
from offload import BackendError, BackendUnavailableError, Job

DEADLINE = 30.0
SOON = offload.constant(0)


class Count:
    """Counts the handlers that run, and compares that with the slots that are busy."""

    def __init__(self, worker) -> None:
        self.worker = worker
        self.running = 0
        self.ran: list[int] = []
        self.wrong: list[tuple[int, int]] = []
        self.changed = asyncio.Event()

    @contextlib.contextmanager
    def one(self, number: int):
        self.running += 1
        self.ran.append(number)
        self.compare()
        try:
            yield
        finally:
            self.compare()
            self.running -= 1
            self.changed.set()

    def compare(self) -> None:
        busy = self.worker._slots.busy
        # A slot is taken when a task is made for it, which may not have begun yet.
        if busy < self.running:
            self.wrong.append((busy, self.running))


def in_turn(*errors):
    """The errors, one at each call, and then none."""
    left = iter(errors)
    return lambda *_: next(left, None)


ERRORS = [
    None,
    BackendUnavailableError("away"),
    BackendError("no"),
    KeyError("a bug"),
    RecursionError(),
    asyncio.CancelledError(),
    SystemExit(1),
    GeneratorExit(),
    TimeoutError(),
]
errors = st.lists(st.sampled_from(ERRORS), max_size=6)

BEHAVIOURS = [
    "return",
    "raise",
    "exit",
    "cancelled",
    "await",
    "reject",
    "time out",
    "deaf",
    "plain",
]


class Observer:
    """Raises what it is told, in whatever hook comes next."""

    def __init__(self, errors) -> None:
        self._next = in_turn(*errors)

    @offload.hookimpl
    def job_started(self):
        if error := self._next():
            raise error

    job_failed = job_succeeded = job_retried = job_dead = job_started


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """What is set aside comes back soon."""
    monkeypatch.setattr("offload.engine.settler.ASIDE_SECONDS", 0.02)
    monkeypatch.setattr("offload.engine.pause._LENGTH", offload.constant(0.002))


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.sampled_from(BEHAVIOURS), min_size=1, max_size=12),
    st.integers(1, 4),
    errors,
    errors,
    errors,
    errors,
)
def test_every_delivery_is_settled_and_every_slot_comes_back(
    behaviours, concurrency, at_fetch, at_settle, after_settle, at_observer
):
    asyncio.run(run(behaviours, concurrency, at_fetch, at_settle, after_settle, at_observer))


async def run(  # noqa: C901 - one story
    behaviours, concurrency, at_fetch, at_settle, after_settle, at_observer
):
    worker, driver = faulty_worker(
        f"concurrency={concurrency}&max_attempts=2&grace=1s",
        before_fetch=in_turn(*at_fetch),
        before_settle=in_turn(*at_settle),
        after_settle=in_turn(*after_settle),
    )
    count = Count(worker)
    worker.observe(Observer(at_observer))
    let_go = asyncio.Event()

    @worker.handler("job", backoff=SOON)
    async def job(args):
        with count.one(args["n"]):
            match args["do"]:
                case "raise":
                    raise ValueError("no")
                case "exit":
                    raise SystemExit
                case "cancelled":
                    raise asyncio.CancelledError
                case "reject":
                    raise offload.Reject
                case "await":
                    await asyncio.sleep(0.001)

    @worker.handler("slow", backoff=SOON, timeout=0.01)
    async def slow(args):
        with count.one(args["n"]):
            while not let_go.is_set():
                try:
                    await let_go.wait()
                except asyncio.CancelledError:
                    if args["do"] == "time out":
                        raise

    @worker.handler("plain", backoff=SOON)
    def plain(args):
        count.ran.append(args["n"])

    names = {"time out": "slow", "deaf": "slow", "plain": "plain"}
    await worker.start()
    for n, do in enumerate(behaviours):
        await worker.perform(Job(names.get(do, "job"), {"n": n, "do": do}))
    subscription = driver.subscription
    async with asyncio.timeout(DEADLINE):
        while set(count.ran) != set(range(len(behaviours))):
            if behaviours.count("deaf") >= concurrency:
                let_go.set()
            await asyncio.sleep(0.005)
        let_go.set()
        settler = worker._dispatcher._settler
        memory = driver._memory
        while (
            worker._slots.busy
            or settler.deliveries()
            or memory.running
            or memory.scheduled
            or any(memory.ready.values())
        ):
            await asyncio.sleep(0.005)
        assert count.running == 0
    assert count.wrong == []
    assert set(subscription.given_out) == set(subscription.settled)
    async with asyncio.timeout(DEADLINE):
        report = await worker.stop()
    assert report.lost == ()


async def test_a_verdict_that_can_not_be_stored_holds_up_no_other(caplog):
    poison: set[str] = set()

    def chokes(settlements):
        if any(each.delivery.id in poison for each in settlements):
            return KeyError("two rows with one id")
        return None

    worker, driver = faulty_worker("concurrency=50&grace=0s", before_settle=chokes)
    gate = asyncio.Event()
    started = asyncio.Event()

    @worker.handler("job")
    async def job(args):
        if args["n"] in (3, 17, 18):
            poison.add(offload.current_job().id)
        if args["n"] == 39:
            started.set()
        await gate.wait()

    @worker.handler("later")
    async def later(args):
        pass

    await worker.start()
    await worker.perform_many([Job("job", {"n": n}) for n in range(40)])
    async with asyncio.timeout(DEADLINE):
        await started.wait()
        gate.set()  # all of them end in one batch
        while len(driver._memory.running) > 3:
            await asyncio.sleep(0.005)
        await worker.perform_many([Job("later")] * 20)
        while len(driver.subscription.settled) < 57:
            await asyncio.sleep(0.005)
    assert set(driver._memory.running) == poison
    refused = [line for line in caplog.messages if "the backend refuses to acknowledge" in line]
    assert len(refused) == 3
    report = await worker.stop()
    assert set(report.lost) == poison


async def test_a_backend_that_refuses_everything_is_told_in_a_few_lines(caplog, monkeypatch):
    monkeypatch.setattr("offload.engine.settler.LONGEST_ASIDE_SECONDS", 0.02)
    refuses = [True]
    calls = []

    def refuse(settlements):
        calls.append(settlements)
        return BackendError("the user lacks a permission") if refuses else None

    worker, driver = faulty_worker("concurrency=50&grace=0s", before_settle=refuse)

    @worker.handler("job")
    async def job(args):
        pass

    await worker.start()
    await worker.perform_many([Job("job")] * 300)
    async with asyncio.timeout(DEADLINE):
        while len(calls) < 2000:  # each of them again and again
            await asyncio.sleep(0.005)
        refuses.clear()
        while driver._memory.running or driver._memory.ready["default"]:
            await asyncio.sleep(0.005)
    told = [record for record in caplog.records if "refuses" in record.getMessage()]
    assert 20 <= len(told) <= 22
    assert sum(record.exc_info is not None for record in told) == 1
    await worker.stop()


async def test_a_failure_that_can_not_be_stored_is_stored_in_a_few_words():
    def chokes(settlements):
        traces = [each.failure for each in settlements if each.failure]
        if any(failure.traceback or not failure.error.isascii() for failure in traces):
            return BackendUnavailableError("a frame was too large: the connection is gone")
        return None

    worker, driver = faulty_worker("max_attempts=1", before_settle=chokes)

    @worker.handler("fail")
    async def fail(args):
        raise ValueError("ä\n" * 5000)

    await worker.start()
    await worker.perform_many([Job("fail")] * 5)
    async with asyncio.timeout(DEADLINE):
        while len(driver._memory.dead) < 5:
            await asyncio.sleep(0.005)
    (failure, *_) = [letter.failure for letter in driver._memory.dead.values()]
    assert failure.error.startswith("ValueError: \\xe4")
    assert (failure.traceback, failure.attempts) == ("", 1)
    await worker.stop()


@pytest.mark.parametrize("loop", ["fetch", "settle"])
async def test_a_loop_that_dies_is_told_and_begins_again(loop, caplog, monkeypatch):
    worker, _ = faulty_worker()
    ran = asyncio.Event()

    @worker.handler("job")
    async def job(args):
        ran.set()

    await worker.start()
    dispatcher = worker._dispatcher
    failures = iter([ZeroDivisionError("within the engine")])

    def fail_once(*args):
        for error in failures:
            raise error
        return original(*args)

    if loop == "fetch":
        original = dispatcher._use_buffer
        monkeypatch.setattr(dispatcher, "_use_buffer", fail_once)
    else:
        original = dispatcher._settler._settled
        monkeypatch.setattr(dispatcher._settler, "_settled", fail_once)
    await worker.perform_many([Job("job")] * 3)
    async with asyncio.timeout(DEADLINE):
        await ran.wait()
        await worker.perform(Job("job"))
        while dispatcher._runner.finished_jobs < 4 or dispatcher._settler.unsettled:
            await asyncio.sleep(0.005)
    (line,) = [record for record in caplog.records if record.levelno == logging.CRITICAL]
    assert f"the worker's {loop} loop failed; it begins again" in line.getMessage()
    assert "ZeroDivisionError" in line.exc_text
    await worker.stop()


async def test_an_outage_is_told_once_then_seldom_and_when_it_is_over(caplog, monkeypatch):
    now = itertools.count(1000.0, 1.0)
    monkeypatch.setattr("offload.engine.outage.monotonic", lambda: next(now))
    worker, _driver = faulty_worker(before_fetch=in_turn(*[BackendUnavailableError("away")] * 12))
    fetched = asyncio.Event()

    @worker.handler("job")
    async def job(args):
        fetched.set()

    caplog.set_level(logging.WARNING)
    await worker.start()
    await worker.perform(Job("job"))
    async with asyncio.timeout(DEADLINE):
        await fetched.wait()
    assert caplog.messages == [
        "no jobs can be fetched: away",
        "no jobs can be fetched for 10 s now: away",
        "the backend is available again after 12 s",
    ]
    await worker.stop()


async def test_no_handler_begins_once_stop_was_called():
    worker, _driver = faulty_worker("concurrency=1&grace=5s")
    ran: list[int] = []
    stopping: list[asyncio.Task] = []

    @worker.handler("job")
    async def job(args):
        ran.append(args["n"])
        if args["n"] == 20:
            stopping.append(asyncio.ensure_future(worker.stop()))
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    await worker.start()
    await worker.perform_many([Job("job", {"n": n}) for n in range(600)])
    async with asyncio.timeout(DEADLINE):
        while not stopping:
            await asyncio.sleep(0)
        await stopping[0]
        while worker.state is not offload.State.STOPPED:
            await asyncio.sleep(0.001)
    assert ran == list(range(21))
    assert (await worker.counts())["default"].waiting == 579
