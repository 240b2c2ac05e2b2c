"""FAIL: what becomes of jobs whose handler fails."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import timedelta
from typing import Any

import pytest

import offload
from offload import UnknownHandlerError, UnsupportedError, Worker
from offload_conformance.lab import Lab
from offload_conformance.suite.test_life import until_it_drains

pytestmark = pytest.mark.asyncio

FAST = offload.constant(timedelta(milliseconds=10))
MANY = 260
"""Attempts that a count with too little room doesn't reach."""
PATIENCE = 60.0
"""Seconds for as many runs, one after the other."""
FOREIGN = (
    b"",
    b"\xff\x00",
    b"[]",
    b'{"v":1}',
    b'{"v":"1"}',
    b'{"v":1,"id":"x","handler":3}',
    b'{"a":' * 20_000,
)


async def test_FAIL_1_attempts_count_from_1_to_the_last(lab: Lab) -> None:
    worker = lab.worker(max_attempts=3)
    troupe = lab.troupe(worker)
    worker.register("async", troupe.act, backoff=FAST)
    worker.register("def", troupe.act_plain, backoff=FAST)
    worker.register("twice", troupe.act, backoff=FAST, max_attempts=2)
    await worker.start()
    always = {"*": [["raise", "boom"]]}
    for name in ("async", "def", "twice"):
        await lab.perform(worker, name, handler=name, do=always)
    await lab.perform(worker, "recovers", handler="async", do={"1": [["raise", "boom"]]})
    letters = await lab.until_dead(worker, 3)
    await lab.until_ended(2, "recovers")
    await lab.fence(worker)
    for tag, most in (("async", 3), ("def", 3), ("twice", 2)):
        own = [letter for letter in letters if letter.handler == tag]
        await lab.check_dead(own, most, tag)
    lab.check("attempts", tag="async", expected=[1, 2, 3])
    lab.check("attempts", tag="def", expected=[1, 2, 3])
    lab.check("attempts", tag="twice", expected=[1, 2])
    lab.check("attempts", tag="recovers", expected=[1, 2])


async def test_FAIL_1_as_many_as_are_allowed(lab: Lab) -> None:
    worker = lab.worker()
    act = lab.troupe(worker).act
    worker.register("often", act, backoff=offload.constant(timedelta(0)), max_attempts=MANY)
    await worker.start()
    await lab.perform(worker, "often", handler="often", do={"*": [["raise", "boom"]]})
    late = MANY * lab.limits.lateness.total_seconds()  # each of them may be
    await lab.until_ended(MANY, "often", PATIENCE + late)
    await lab.until_dead(worker, 1)
    await lab.fence(worker)
    lab.check("attempts", tag="often", expected=list(range(1, MANY + 1)))


async def test_FAIL_2_never_before_its_backoff(lab: Lab) -> None:
    worker = lab.worker()
    act = lab.troupe(worker).act

    def grows(attempt: int) -> timedelta:
        return timedelta(milliseconds=40 * attempt)

    worker.register("grows", act, backoff=grows)
    worker.register("default", act)
    worker.register("slow", act, backoff=grows, timeout=0.02)
    await worker.start()
    fails = {"1": [["raise", "boom"]], "2": [["raise", "boom"]]}
    await lab.perform(worker, "default", handler="default", do=fails)
    await lab.perform(worker, "grows", handler="grows", do=fails)
    # However it has failed: by a timeout, and by a Retry that leaves it to the backoff.
    never: dict[str, list[list[Any]]] = {"1": [["gate", "never"]], "2": [["gate", "never"]]}
    await lab.perform(worker, "slow", handler="slow", do=never)
    asks: dict[str, list[list[Any]]] = {"1": [["retry", None]], "2": [["retry", None]]}
    await lab.perform(worker, "asks", handler="grows", do=asks)
    for tag in ("grows", "slow", "asks"):
        await lab.until_started(3, tag)
        lab.check("wait_between", tag=tag, attempt=1, least_ms=40)
        lab.check("wait_between", tag=tag, attempt=2, least_ms=80)
    # Without a backoff of its own it waits for a second, longer than this should have taken.
    lab.check("no_attempt_before", tag="default", least_ms=1000)


async def test_FAIL_2_counted_from_the_end_of_the_attempt(lab: Lab) -> None:
    worker = lab.worker()
    backoff = offload.constant(timedelta(milliseconds=120))
    worker.register("long", lab.troupe(worker).act, backoff=backoff)
    await worker.start()
    do: dict[str, list[list[Any]]] = {"1": [["work", 0.15], ["raise", "boom"]]}
    await lab.perform(worker, "long", handler="long", do=do)
    await lab.until_ended(2, "long")
    lab.check("wait_between", tag="long", attempt=1, least_ms=120)


async def test_FAIL_2_a_wait_beyond_every_calendar(lab: Lab) -> None:
    """It is cut to what can be waited for: the job is neither lost, dead, nor run at once."""
    worker = lab.worker()
    worker.register("never", lab.troupe(worker).act, backoff=lambda _: timedelta.max)
    await worker.start()
    do: dict[str, list[list[Any]]] = {"*": [["raise", "boom"]]}
    job_id = await lab.perform(worker, "never", handler="never", do=do)
    await lab.until_ended(1, "never")
    await lab.fence(worker)
    report = await lab.stop(worker)
    lab.check("attempts", tag="never", expected=[1])
    if lab.claims.dead_letters:
        lab.equal("the dead letters", [], list(await worker.dead_letters.list()))
    if not lab.is_shared:
        lab.equal("what waits for its retry", [job_id], list(report.lost))


async def test_FAIL_3_the_dead_letter_tells_why(lab: Lab) -> None:
    worker = lab.worker(max_attempts=2)
    worker.register("fast", lab.troupe(worker).act, backoff=FAST)
    await worker.start()
    do = {"1": [["raise", "the first"]], "2": [["raise", "the last"]]}
    job_id = await lab.perform(worker, "doomed", handler="fast", do=do)
    if not lab.claims.dead_letters:
        await lab.refused(UnsupportedError, "dead_letters", _look(worker))
        return
    (letter,) = await lab.until_dead(worker, 1)
    lab.equal("its id", job_id, letter.id)
    lab.equal("its queue", "default", letter.queue)
    lab.equal("its handler", "fast", letter.handler)
    lab.equal("its args", {"tag": "doomed", "do": do}, letter.args)
    lab.equal("its attempts", 2, letter.attempts)
    lab.check("contains", what="its error", part="the last", actual=letter.error)
    for part in ("Traceback", "puppets.py", "ValueError: the last"):
        lab.check("contains", what="its traceback", part=part, actual=letter.traceback)
    lab.check("attempts", tag="doomed", expected=[1, 2])
    await lab.check_dead([letter], 2)


async def _look(worker: Worker) -> object:
    return worker.dead_letters


class UnspeakableError(Exception):
    """One whose text can't be read, as of an error that formats what it lacks."""

    def __str__(self) -> str:
        raise AttributeError("response")


async def test_FAIL_3_one_whose_text_can_not_be_read(lab: Lab) -> None:
    worker = lab.worker(max_attempts=2)
    act = lab.troupe(worker).act

    async def unspeakable(args: offload.Args) -> None:
        await act(args)
        raise UnspeakableError

    worker.register("unspeakable", unspeakable, backoff=FAST)
    await worker.start()
    await lab.perform(worker, "doomed", handler="unspeakable")
    letters = await lab.until_dead(worker, 1)
    await lab.fence(worker)
    lab.check("attempts", tag="doomed", expected=[1, 2])
    await lab.check_dead(letters, 2)
    for letter in letters:
        lab.check("contains", what="its error", part="UnspeakableError", actual=letter.error)


@pytest.mark.parametrize("handler", ["async", "def"])
async def test_FAIL_4_no_exception_ends_the_worker(lab: Lab, handler: str) -> None:
    worker = lab.worker(max_attempts=2)
    troupe = lab.troupe(worker)
    worker.register("async", troupe.act, backoff=FAST)
    worker.register("def", troupe.act_plain, backoff=FAST)
    await worker.start()
    kinds = ["CancelledError", "BaseException", "GeneratorExit", "SystemExit", "KeyboardInterrupt"]
    for kind in kinds:
        do = {"1": [["raise", "boom", kind]]}
        await lab.perform(worker, kind, handler=handler, do=do)
        await lab.until_ended(2, kind)
    await lab.fence(worker)
    for kind in kinds:
        lab.check("attempts", tag=kind, expected=[1, 2])


async def test_FAIL_4_a_cancellation_of_its_own_during_a_drain(lab: Lab) -> None:
    """Within the grace nobody but the handler has cancelled it: that counts."""
    worker = lab.worker()
    await worker.start()
    do = {"1": [["gate", "g"], ["raise", "boom", "CancelledError"]]}
    await lab.perform(worker, "cancels", do=do)
    await lab.until_started(1)
    stopping = await lab.begin_stop(worker)
    await until_it_drains(worker)
    lab.stage.open("g")
    report = await stopping
    lab.equal("what the report has as finished", 1, report.finished)
    await worker.start()
    await lab.until_ended(2, "cancels")
    lab.check("attempts", tag="cancels", expected=[1, 2])


async def test_FAIL_5_a_timeout_is_a_failure(lab: Lab) -> None:
    worker = lab.worker(max_attempts=2)
    troupe = lab.troupe(worker)
    worker.register("async", troupe.act, backoff=FAST, timeout=0.03)
    worker.register("def", troupe.act_plain, backoff=FAST, timeout=timedelta(milliseconds=30))
    await worker.start()
    await lab.perform(worker, "async", handler="async", do={"*": [["gate", "never"]]})
    await lab.perform(worker, "def", handler="def", do={"1": [["gate", "late"]]})
    await lab.until_dead(worker, 1)
    # A def handler can't be stopped: its next attempt runs beside it.
    await lab.until_started(2, "def")
    lab.stage.open("late")
    await lab.until_ended(2, "def")
    await lab.until_ended(2, "async")
    await lab.fence(worker)
    lab.check("attempts", tag="async", expected=[1, 2])
    lab.check("attempts", tag="def", expected=[1, 2])


async def test_FAIL_5_whatever_is_done_with_the_cancellation(lab: Lab) -> None:
    """One that swallows it, and returns as if nothing were, has failed all the same."""
    worker = lab.worker(max_attempts=2)
    worker.register("stubborn", lab.troupe(worker).act, backoff=FAST, timeout=0.03)
    await worker.start()
    do: dict[str, list[list[Any]]] = {"1": [["endure", "late"]]}
    await lab.perform(worker, "stubborn", handler="stubborn", do=do)
    await lab.until_started(2, "stubborn")  # beside the first, which goes on
    lab.stage.open("late")
    await lab.until_ended(2, "stubborn")
    await lab.fence(worker)
    lab.check("attempts", tag="stubborn", expected=[1, 2])


class Spiteful:
    """An observer that raises whenever it is told anything."""

    def __init__(self, kind: type[BaseException]) -> None:
        self._kind = kind

    def _raise(self, **_: object) -> None:
        raise self._kind("a broken observer")

    @offload.hookimpl
    def worker_started(self, worker: Worker) -> None:
        self._raise(worker=worker)

    @offload.hookimpl
    def job_enqueued(self, job: offload.JobContext) -> None:
        self._raise(job=job)

    @offload.hookimpl
    def job_started(self, job: offload.JobContext) -> None:
        self._raise(job=job)

    @offload.hookimpl
    def job_succeeded(self, job: offload.JobContext) -> None:
        self._raise(job=job)

    @offload.hookimpl
    def job_failed(self, job: offload.JobContext, error: BaseException) -> None:
        self._raise(job=job, error=error)

    @offload.hookimpl
    def job_retried(self, job: offload.JobContext, delay: timedelta) -> None:
        self._raise(job=job, delay=delay)

    @offload.hookimpl
    def job_dead(self, job: offload.JobContext, error: str) -> None:
        self._raise(job=job, error=error)


async def test_FAIL_6_a_failing_job_disturbs_no_other(lab: Lab) -> None:
    worker = lab.worker(concurrency=2)
    slowly = offload.constant(timedelta(hours=1))
    worker.register("slowly", lab.troupe(worker).act, backoff=slowly)
    await worker.start()
    for _ in range(5):
        await lab.perform(worker, "failing", handler="slowly", do={"*": [["raise", "boom"]]})
        await lab.perform(worker, "good")
    await lab.until_ended(5, "good")
    lab.check("each_once", tag="good")


@pytest.mark.parametrize("kind", [RuntimeError, asyncio.CancelledError])
async def test_FAIL_6_an_observer_that_raises_disturbs_nothing(
    lab: Lab, kind: type[BaseException]
) -> None:
    worker = lab.worker(max_attempts=2)
    with contextlib.suppress(UnsupportedError):  # no adapter need have observers
        worker.observe(Spiteful(kind))
    await worker.start()
    await lab.perform(worker, "good")
    await lab.perform(worker, "recovers", do={"1": [["raise", "boom"]]})
    await lab.perform(worker, "rejected", do={"*": [["reject", "boom"]]})
    await lab.until_ended(1, "good")
    await lab.until_ended(2, "recovers")
    await lab.until_dead(worker, 1)
    await lab.fence(worker)
    lab.check("attempts", tag="good", expected=[1])
    lab.check("attempts", tag="recovers", expected=[1, 2])
    lab.check("attempts", tag="rejected", expected=[1])


async def leave_without_handler(lab: Lab) -> bool:
    """Leave a job for a consumer that lacks its handler; False when there can't be one."""
    performer = lab.worker()
    if not lab.is_shared:
        call = lab.perform(performer, "nobody", handler="nobody")
        await lab.refused(UnknownHandlerError, "perform", call)
        return False
    performer.register("nobody", lab.troupe(performer).act)
    await lab.perform(performer, "nobody", handler="nobody")
    await performer.stop()
    return True


async def test_FAIL_7_without_a_handler_a_job_ends_as_a_dead_letter(lab: Lab) -> None:
    if not await leave_without_handler(lab):
        return
    worker = lab.worker(max_attempts=1)
    await worker.start()
    letters = await lab.until_dead(worker, 1)
    lab.check("never_ran", tag="nobody")
    if lab.claims.dead_letters:
        lab.equal("the dead letters", ["nobody"], [letter.handler for letter in letters])
        lab.check("contains", what="its error", part="nobody", actual=letters[0].error)


@pytest.mark.slow
async def test_FAIL_7_without_a_handler_a_job_is_retried(lab: Lab) -> None:
    if not await leave_without_handler(lab):
        return
    worker = lab.worker()
    await worker.start()
    await lab.fence(worker)
    await lab.fence(worker)
    worker.register("nobody", lab.troupe(worker).act)
    await lab.until_ended(1, "nobody")
    lab.check("each_once", tag="nobody")
    if lab.claims.fifo:  # else its first attempt may be behind the fences
        lab.check("attempts", tag="nobody", expected=[2])


async def test_FAIL_8_bytes_that_do_not_decode_are_dead_letters(lab: Lab) -> None:
    inject = lab.need_inject()
    worker = lab.worker()
    await lab.perform(worker, "before")
    for body in FOREIGN:
        await inject(namespace=lab.namespace, queue="default", body=body)
    await lab.perform(worker, "after")
    await worker.start()
    letters = await lab.until_dead(worker, len(FOREIGN))
    for tag in ("before", "after"):
        await lab.until_ended(1, tag)
    await lab.fence(worker)
    lab.check("each_once")
    if lab.claims.dead_letters:
        lab.equal("how many are dead", len(FOREIGN), len(await worker.dead_letters.list()))
        lab.equal("their handlers", [None] * len(FOREIGN), [each.handler for each in letters])
        lab.equal("their args", [None] * len(FOREIGN), [each.args for each in letters])
        lab.equal("those without an error", 0, sum(not each.error for each in letters))


async def test_FAIL_9_retry_waits_as_it_says(lab: Lab) -> None:
    worker = lab.worker(max_attempts=3)
    act = lab.troupe(worker).act
    worker.register("patient", act, backoff=offload.constant(timedelta(hours=1)))
    worker.register("hasty", act, backoff=offload.constant(timedelta(0)))
    await worker.start()
    await lab.perform(worker, "sooner", handler="patient", do={"*": [["retry", 0.02]]})
    await lab.perform(worker, "later", handler="hasty", do={"1": [["retry", 0.08]]})
    await lab.until_started(3, "sooner")
    await lab.until_ended(2, "later")
    await lab.until_dead(worker, 1)
    await lab.fence(worker)
    lab.check("attempts", tag="sooner", expected=[1, 2, 3])
    lab.check("wait_between", tag="sooner", attempt=1, least_ms=20)
    lab.check("attempts", tag="later", expected=[1, 2])
    lab.check("wait_between", tag="later", attempt=1, least_ms=80)


async def test_FAIL_9_reject_ends_it_at_once(lab: Lab) -> None:
    worker = lab.worker(max_attempts=3)
    worker.register("hasty", lab.troupe(worker).act, backoff=offload.constant(timedelta(0)))
    await worker.start()
    do = {"*": [["reject", "no such user"]]}
    job_id = await lab.perform(worker, "rejected", handler="hasty", do=do)
    await lab.until_ended(1, "rejected")
    letters = await lab.until_dead(worker, 1)
    await lab.fence(worker)
    lab.check("attempts", tag="rejected", expected=[1])
    await lab.check_dead(letters, 3)
    if lab.claims.dead_letters:
        lab.equal("the dead letters", [job_id], [letter.id for letter in letters])
        lab.equal("its attempts", 1, letters[0].attempts)
        lab.check("contains", what="its error", part="no such user", actual=letters[0].error)
