"""TIME: later, and never early.

What a run tells of its due time (`current_job().due_ms`) proves to the millisecond what the
clock at its start can't, since that is late by the time that everything takes. The due times
that are asked for go by this host's clock: the backend's must agree with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta, timezone

import pytest

from offload import Job, UnsupportedError, Worker
from offload_conformance.lab import Lab, now

pytestmark = pytest.mark.asyncio

SLACK_MS = 3.0
"""How far a due time may be rounded up: the millisecond that has begun, and one of the delay's."""
ABOUT_MS = 2000.0
"""For rules that are about hours, and leave milliseconds to TIME-10."""

Perform = Callable[[datetime], Awaitable[None]]


async def ahead_of_time(perform: Perform) -> None:
    """Perform jobs that are due from an instant on, all of them before it comes.

    A slow backend or a busy host gets more time, and the jobs are performed again.
    """
    for seconds in (0.05, 0.2, 0.8, 3.2):
        due = now() + timedelta(seconds=seconds)
        await perform(due)
        if now() < due:
            return


def milliseconds(number: float) -> timedelta:
    """So many, of which there may be parts."""
    return timedelta(milliseconds=number)


async def test_TIME_1_never_early(lab: Lab) -> None:
    worker = lab.worker()
    await worker.start()
    for number in (1, 2, 3, 7, 20, 55, 90, 130):
        await lab.perform(worker, f"{number} ms", delay=number / 1000)
        await lab.perform(worker, "at", at=now() + milliseconds(number))
    await lab.until_started(16)
    lab.check("never_early")
    lab.check("each_once")


@pytest.mark.slow
async def test_TIME_1_not_over_whole_seconds(lab: Lab) -> None:
    """Performed and due at all phases of a second, and farther than a second from each other."""
    worker = lab.worker()
    await worker.start()
    for number in range(30):
        await lab.perform(worker, "in", delay=0.1 + number * 0.097)
        await lab.perform(worker, "at", at=now() + timedelta(seconds=0.13 + number * 0.089))
        await asyncio.sleep(0.037)
    await lab.until_started(60)
    lab.check("never_early")
    lab.check("each_once")


async def test_TIME_1_not_by_a_part_of_a_millisecond(lab: Lab) -> None:
    worker = lab.worker()
    await worker.start()
    for number in range(10, 30):
        await lab.perform(worker, "in", delay=milliseconds(number + 0.999))
        ahead = now() + milliseconds(number)
        whole = ahead.microsecond // 1000 * 1000
        await lab.perform(worker, "at", at=ahead.replace(microsecond=whole + 999))
    await lab.until_started(40)
    lab.check("never_early")
    lab.check("due_as_asked")


async def test_TIME_1_not_when_performed_before_the_start(lab: Lab) -> None:
    lab.move_to_fresh_place()
    worker = lab.worker()
    await lab.perform(worker, "in", delay=0.06)
    await lab.perform(worker, "at", at=now() + milliseconds(60))
    await lab.perform(worker, "in an hour", delay=3600)
    await lab.perform(worker, "in a day", delay=86_400)
    await worker.start()
    await lab.fence(worker)
    await lab.until_started(3)
    lab.check("never_early")
    lab.check("never_ran", tag="in an hour")
    lab.check("never_ran", tag="in a day")


HOUR = 3600.0
SHIFT_MS = 50.0
"""How much early a job may be for the wrong clock of a worker."""


@pytest.mark.parametrize("off_by", [HOUR, -HOUR], ids=["ahead", "behind"])
async def test_TIME_1_whatever_a_workers_clock_says(lab: Lab, off_by: float) -> None:
    """It performs, takes and retries as the others do."""
    async with AsyncExitStack() as stack:
        if lab.has_own_clock:
            worker = lab.worker()
            await stack.enter_async_context(lab.process(queues="wrong", clock=off_by))
        else:  # then no other clock is there
            worker = lab.worker(queues="default,wrong")
        await worker.start()
        steps = {"1": [["perform_in", "performed there", 0.4], ["retry", 0.4]]}
        await lab.perform(worker, "retried there", queue="wrong", do=steps)
        await lab.perform(worker, "taken there", queue="wrong", delay=0.4)
        await lab.until_ended(2, "retried there")
        await lab.until_ended(1, "taken there")
        await lab.until_ended(1, "performed there")
    lab.check("never_early", slack_ms=SHIFT_MS)
    lab.check("late_at_most", limit_ms=ABOUT_MS, share=1.0)
    lab.check("wait_between", tag="retried there", attempt=1, least_ms=400.0 - SHIFT_MS)
    lab.check("attempts", tag="retried there", expected=[1, 2])


@pytest.mark.slow
async def test_TIME_1_leases_go_by_no_workers_clock(lab: Lab) -> None:
    """Beside workers whose clocks are wrong, no lease that is held is over, on any side."""
    options, lease = lab.lease if lab.has_own_clock else ({}, 0.0)
    queues = ("right", "ahead", "behind")
    everywhere = {"queues": ",".join((*queues, "fence")), **options}
    slots = 1 if lab.has_own_clock else 4
    worker = idle = lab.worker(concurrency=slots, **everywhere)
    await worker.start()
    async with AsyncExitStack() as stack:
        if lab.has_own_clock:
            for clock in (HOUR, -HOUR):
                process = lab.process(concurrency=1, clock=clock, **everywhere)
                await stack.enter_async_context(process)
        for number, queue in enumerate(queues, 1):  # who has one slot takes one of them
            await lab.perform(worker, queue, queue=queue, do={"*": [["gate", "held"]]})
            await lab.until_started(number)
        if lab.has_own_clock:
            idle = lab.worker(**everywhere)
            await idle.start()
        enough = lease + min(lab.recovery, 2.5 * lease)
        await lab.perform(idle, "enough", queue="fence", delay=enough)
        await lab.stage.until("enough time to pass", lambda: lab.runs("enough") > 0, enough + 15)
        lab.stage.open("held")
        await lab.until_ended(4)
        for queue in queues:
            lab.check("lasted", tag=queue, least_s=lease)
        lab.check("each_once")


async def test_TIME_2_hardly_late_when_idle(lab: Lab) -> None:
    worker = lab.worker()
    await worker.start()
    for number in range(50, 1450, 70):  # so far apart that one busy moment strikes few of them
        await lab.perform(worker, "later", delay=number / 1000)
    await lab.until_started(20)
    lateness_ms = lab.limits.lateness / timedelta(milliseconds=1)
    lab.check("late_at_most", limit_ms=lateness_ms)
    # What a moment costs in which the host is busy must not hide that some are always late.
    lab.check("late_at_most", limit_ms=4 * lateness_ms, share=0.8)


async def test_TIME_2_in_whichever_queue_it_is(lab: Lab) -> None:
    queues = ("default", "second", "third")
    worker = lab.worker(queues=",".join(queues))
    await worker.start()
    for number in range(1, 13):  # alone, so that nothing else makes the worker look
        await lab.perform(worker, "later", queue=queues[number % 3], delay=0.15)
        await lab.until_started(number)
    limit_ms = 4 * (lab.limits.lateness / timedelta(milliseconds=1))
    lab.check("late_at_most", limit_ms=limit_ms, share=0.8)


async def test_TIME_2_nor_is_a_retry(lab: Lab) -> None:
    worker = lab.worker()
    await worker.start()
    for number in range(1, 8):
        await lab.perform(worker, "retried", do={"1": [["retry", 0.05]]})
        await lab.until_ended(2 * number, "retried")
    ended = [event.what["wall_ms"] for event in lab.history.named("ended")][::2]
    again = [event.what["wall_ms"] for event in lab.history.named("started")][1::2]
    late = sorted(after - before - 50 for before, after in zip(ended, again, strict=True))
    limit_ms = 4 * (lab.limits.lateness / timedelta(milliseconds=1))
    lab.check("at_most", what="ms that most are late", limit=limit_ms, actual=late[4])


async def test_TIME_3_at_once_what_is_due_already(lab: Lab) -> None:
    worker = lab.worker()
    await worker.start()
    # One after the other: a moment in which the host is busy makes no more than one late.
    for delay in (0, 0.0, -0.0, -5.5, timedelta(0), timedelta(days=-4000), timedelta.min):
        await lab.perform(worker, "due", delay=delay)
        await lab.until_started(len(lab.history.named("accepted")))
    for at in (
        *(now(), now() - milliseconds(1), datetime(1969, 7, 20, 20, 17, tzinfo=UTC)),
        datetime.min.replace(tzinfo=UTC),
        datetime(2020, 10, 25, 2, 30, tzinfo=timezone(timedelta(hours=14))),
    ):
        await lab.perform(worker, "due", at=at)
        await lab.until_started(len(lab.history.named("accepted")))
    lab.check("each_once")
    lateness_ms = lab.limits.lateness / timedelta(milliseconds=1)
    lab.check("began_within", tag="due", limit_ms=lateness_ms)
    lab.check("began_within", tag="due", limit_ms=4 * lateness_ms, share=0.8)


async def test_TIME_5_in_is_at_now_and_the_delay(lab: Lab) -> None:
    worker = lab.worker(queues="default,other")
    await worker.start()
    delays = (0.04, milliseconds(40), 0.0557, timedelta(microseconds=55_700), 1, timedelta(0, 1))
    for delay in delays:
        await lab.perform(worker, "in", delay=delay, queue="other")
    await lab.perform(worker, "at", at=now() + milliseconds(40), queue="other")
    for delay in (timedelta(days=1), timedelta(weeks=1), timedelta(hours=1)):
        if delay <= lab.limits.max_delay:
            await lab.perform(worker, "far", delay=delay)
    await lab.until_started(len(delays) + 1)
    ran = sorted({run.what["queue"] for run in lab.history.named("started")})
    lab.equal("the queues in which they ran", ["other"], ran)
    await lab.fence(worker)
    lab.check("never_early")
    lab.check("due_as_asked", slack_ms=ABOUT_MS)
    lab.check("never_ran", tag="far")


async def test_TIME_6_the_longest_delay_passes_and_more_does_not(lab: Lab) -> None:
    worker = lab.worker()
    await worker.start()
    job, longest = Job("act", {"tag": "too far"}), lab.limits.max_delay
    calls = {
        "perform_in 1e300": worker.perform_in(job, 1e300),
        "perform_in timedelta.max": worker.perform_in(job, timedelta.max),
        "perform_in max_delay + 1 ms": worker.perform_in(job, longest + milliseconds(1)),
        "perform_at datetime.max": worker.perform_at(job, datetime.max.replace(tzinfo=UTC)),
        # By then a little of it has passed: a second more is more for sure.
        "perform_at now + max_delay + 10 s": worker.perform_at(
            job, now() + longest + timedelta(seconds=10)
        ),
    }
    for name, call in calls.items():
        await lab.refused(UnsupportedError, name, call)
    await lab.perform(worker, "farthest", delay=longest)
    await lab.perform(worker, "farthest", delay=longest.total_seconds())
    await lab.perform(worker, "farthest", at=now() + longest)
    first = lab.history.named("accepted")[0].what
    seconds = (first["due_ms"] - first["asked_ms"]) / 1000
    limit = longest.total_seconds()
    lab.check("at_least", what="seconds of the longest delay", limit=limit, actual=seconds + 0.001)
    await lab.fence(worker)
    lab.check("never_ran", tag="farthest")
    lab.check("never_ran", tag="too far")
    await check_scheduled(lab, worker, 3)


async def check_scheduled(lab: Lab, worker: Worker, expected: int) -> None:
    """So many jobs are scheduled, if the adapter can count those."""
    try:
        counts = await worker.counts()
    except UnsupportedError:
        return
    scheduled = [queue.scheduled for queue in counts.values()]
    known = [number for number in scheduled if number is not None]
    if len(known) == len(scheduled):
        lab.equal("the scheduled jobs", expected, sum(known))


@pytest.mark.parametrize("fell_due", ["while it runs", "before it starts"])
async def test_TIME_7_due_order(lab: Lab, fell_due: str) -> None:
    worker = lab.worker(concurrency=1)
    tags: list[str] = []
    step = milliseconds(60)
    is_overdue = fell_due == "before it starts"

    async def perform(due: datetime) -> None:
        tags[:] = [f"{word} of {due:%S.%f}" for word in ("first", "second", "third")]
        for place in (2, 0, 1):
            await lab.perform(worker, tags[place], at=due + place * step)

    await lab.perform(worker, "an hour", delay=3600)
    await ahead_of_time(perform)
    if is_overdue:
        last = max(e.what["due_ms"] for e in lab.history.named("accepted")[1:])
        await asyncio.sleep((last - now().timestamp() * 1000) / 1000 + 0.05)
    await worker.start()
    await lab.until_started(1, tags[0])
    await lab.until_started(1, tags[1])
    await lab.until_started(1, tags[2])
    if lab.claims.fifo or not is_overdue:  # else what is there may come in any order
        lab.check("in_order", tags=tags)
    lab.check("never_ran", tag="an hour")


async def test_TIME_7_a_sooner_one_than_the_one_waited_for(lab: Lab) -> None:
    worker = lab.worker()
    await worker.start()
    for tag, delay in (("a day", 86_400), ("an hour", 3600)):
        await lab.perform(worker, tag, delay=delay)
        await lab.fence(worker)  # the worker has seen it, and waits for it
    await lab.perform(worker, "soon", delay=0.02)
    await lab.until_started(1, "soon")
    lab.check("never_early")
    lab.check("began_within", tag="soon", limit_ms=2000)


async def test_TIME_9_a_thousand_at_one_instant(lab: Lab) -> None:
    worker = lab.worker(concurrency=100)
    tags: list[str] = []

    async def perform(due: datetime) -> None:
        tags.append(f"of {due:%S.%f}")
        await lab.perform_all(worker, tags[-1], 1000, at=due)

    await ahead_of_time(perform)
    await worker.start()
    await lab.until_ended(1000 * len(tags))
    lab.check("each_once")
    lab.check("never_early")


async def test_TIME_10_to_the_millisecond(lab: Lab) -> None:
    worker = lab.worker()
    await worker.start()
    for number in (1011.3, 1307, 1, 2, 3, 14, 15, 33, 38, 51, 57, 76.2, 76.9):
        await lab.perform(worker, "in", delay=number / 1000)
        await lab.perform(worker, "in", delay=milliseconds(number))
        await lab.perform(worker, "at", at=now() + milliseconds(number))
    await lab.until_started(39)
    lab.check("never_early")
    lab.check("due_as_asked", slack_ms=SLACK_MS)
