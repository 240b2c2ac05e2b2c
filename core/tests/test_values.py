"""What the fields of jobs, verdicts and reports say, on both sides of the engine."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta

import pytest
from watched import DEADLINE, WatchedDriver, watched_worker

import offload
import offload_simple
from offload import DeadLetter, Entry, Failure, Job, JobContext, Verdict

ANY_TIME = datetime(2035, 1, 2, 3, 4, 5, 6000, tzinfo=UTC)


async def nothing(args):
    pass


# -- to a driver -------------------------------------------------------------------


async def test_an_entry_says_what_was_performed():
    worker, watch = watched_worker("queues=default,other")
    worker.register("job", nothing)
    ids = [
        await worker.perform(Job("job", {"a": 1}, "other")),
        await worker.perform_in(Job("job"), 1.5),
        await worker.perform_at(Job("job"), ANY_TIME),
    ]
    entries = [entry for batch in watch.of("enqueue") for entry in batch]
    assert [entry.id for entry in entries] == ids
    assert len(set(ids)) == 3
    assert [entry.queue for entry in entries] == ["other", "default", "default"]
    assert b'"args":{"a":1}' in entries[0].body
    assert [entry.delay_ms for entry in entries] == [0, 1500, 0]
    assert [entry.at_ms for entry in entries] == [None, None, ANY_TIME.timestamp() * 1000]


async def settlements(**options):
    """The verdicts on a job that ends like this, and its deliveries."""
    worker, watch = watched_worker("max_attempts=2&grace=0s")
    fetched = []
    started = asyncio.Event()

    @worker.handler("job", backoff=offload.constant(0.001))
    async def job(args):
        started.set()
        if options["ends"] == "hangs":
            await asyncio.Event().wait()
        if options["ends"] == "raises":
            raise ValueError(options.get("text", "no"))

    await worker.start()
    subscription = worker._dispatcher.subscription
    fetch = subscription.fetch

    async def watched_fetch(limit):
        found = await fetch(limit)
        fetched.extend(found.deliveries)
        return found

    subscription.fetch = watched_fetch
    await worker.perform(Job("job"))
    if options["ends"] == "hangs":
        async with asyncio.timeout(DEADLINE):
            await started.wait()
    else:
        await watch.until(lambda: watch.ended.count("settle") == options["verdicts"])
    await worker.stop()
    return [each for batch in watch.of("settle") for each in batch], fetched


async def test_a_settlement_has_its_delivery_as_it_was_fetched():
    settled, fetched = await settlements(ends="returns", verdicts=1)
    (settlement,) = settled
    assert any(settlement.delivery is delivery for delivery in fetched)
    assert settlement.verdict is Verdict.ACKNOWLEDGE
    assert (settlement.delay_ms, settlement.failure) == (0, None)


async def test_only_a_retry_has_a_delay_and_only_what_failed_a_failure():
    retry, dead = (await settlements(ends="raises", verdicts=2))[0]
    assert (retry.verdict, retry.delay_ms) == (Verdict.RETRY, 1)
    assert (dead.verdict, dead.delay_ms) == (Verdict.DEAD_LETTER, 0)
    assert [(each.failure.error, each.failure.attempts) for each in (retry, dead)] == [
        ("ValueError: no", 1),
        ("ValueError: no", 2),
    ]
    assert dead.failure.traceback.startswith("Traceback")
    (release,) = (await settlements(ends="hangs"))[0]
    assert (release.verdict, release.delay_ms) == (Verdict.RELEASE, 0)
    assert release.failure is None


async def test_a_failure_is_no_longer_than_every_backend_can_hold():
    retry, _ = (await settlements(ends="raises", text="x" * 100_000, verdicts=2))[0]
    assert retry.failure.error == f"ValueError: {'x' * 1000}"[:1000]
    assert len(retry.failure.traceback) == 16_000
    assert retry.failure.traceback.endswith("x\n")


class NotedDriver(WatchedDriver):
    """Counts how often it is asked for its notes, and limits runs."""

    longest_run = timedelta(seconds=10)
    asked = 0

    def claim_notes(self):
        self.asked += 1
        return {"durable": f"asked {self.asked}"}


async def test_claim_notes_are_asked_for_after_each_open():
    worker, _ = watched_worker()
    worker._driver.__class__ = NotedDriver
    assert "durable" not in worker.claims.notes
    for number in (1, 2):
        await worker.start()
        assert worker.claims.notes["durable"] == f"asked {number}"
        await worker.counts()
        assert worker.claims.notes["durable"] == f"asked {number}"
        await worker.stop()


def test_a_timeout_beyond_the_longest_run_is_refused(monkeypatch):
    monkeypatch.setattr("watched.WatchedDriver", NotedDriver)
    worker, _ = watched_worker()
    worker.register("short", nothing, timeout=9.9)
    for timeout in (10, timedelta(seconds=11)):
        with pytest.raises(ValueError, match="timeout"):
            worker.register("long", nothing, timeout=timeout)


# -- to an application -------------------------------------------------------------


async def test_a_context_says_which_run_of_which_job_it_is(connect, url):
    worker = connect(url, queues="default,other")
    contexts: list[JobContext] = []
    both = asyncio.Event()

    @worker.handler("job", backoff=offload.constant(0))
    async def job(args):
        contexts.append(offload.current_job())
        if len(contexts) == 2:
            both.set()
        else:
            raise ValueError

    begun = time.time_ns() // 1_000_000
    job_id = await worker.perform_in(Job("job", {}, "other"), 0.05)
    performed = time.time_ns() // 1_000_000
    await worker.start()
    async with asyncio.timeout(DEADLINE):
        await both.wait()
    first, second = contexts
    for context, attempt in ((first, 1), (second, 2)):
        assert (context.id, context.queue, context.handler) == (job_id, "other", "job")
        assert context.attempt == attempt
        assert begun <= context.enqueued_ms <= performed
        assert context.enqueued_at == datetime.fromtimestamp(context.enqueued_ms / 1000, UTC)
        assert context.due_at == datetime.fromtimestamp(context.due_ms / 1000, UTC)
    # The backend is on this host, so its clock is that of the test.
    assert begun + 50 <= first.due_ms <= performed + 60
    assert first.due_ms <= second.due_ms <= time.time_ns() // 1_000_000 + 1


async def test_a_dead_letter_says_what_became_of_which_job(connect, url):
    worker = connect(url, queues="default,other", max_attempts=2)
    dead = asyncio.Event()

    class Observer:
        @offload.hookimpl
        def job_dead(self):
            dead.set()

    worker.observe(Observer())

    @worker.handler("job", backoff=offload.constant(0))
    async def job(args):
        raise ValueError("no")

    begun = time.time_ns() // 1_000_000
    await worker.start()
    job_id = await worker.perform(Job("job", {"a": [1]}, "other"))
    async with asyncio.timeout(DEADLINE):
        await dead.wait()
    letter = await worker.dead_letters.show(job_id)
    assert (letter.id, letter.queue, letter.handler) == (job_id, "other", "job")
    assert (letter.args, letter.attempts, letter.error) == ({"a": [1]}, 2, "ValueError: no")
    assert letter.traceback.endswith("ValueError: no\n")
    assert begun <= letter.died_ms <= time.time_ns() // 1_000_000 + 1
    assert letter.died_at == datetime.fromtimestamp(letter.died_ms / 1000, UTC)
    assert await worker.dead_letters.show("another") is None
    assert await worker.dead_letters.requeue(["another"]) == []
    assert await worker.dead_letters.discard(["another"]) == []


async def test_a_dead_letter_that_can_not_be_read_has_no_handler_and_no_args():
    worker, _ = watched_worker()
    await worker.start()
    await worker._driver.enqueue([Entry("id", "default", b"rubbish")])
    async with asyncio.timeout(DEADLINE):
        while not (letters := await worker.dead_letters.list()):
            await asyncio.sleep(0.001)
    assert [(letter.handler, letter.args) for letter in letters] == [(None, None)]
    await worker.stop()


def test_an_empty_cursor_stands_for_the_id():
    failure = Failure("")
    letter = DeadLetter("id", "default", None, None, 1, failure.error, failure.traceback, 0)
    assert letter.cursor == "id"


async def test_counts_say_in_which_state_jobs_are(connect, url):
    worker = connect(url, concurrency=1, max_attempts=1)
    gate, started = asyncio.Event(), asyncio.Event()

    @worker.handler("fail")
    async def fail(args):
        raise ValueError

    @worker.handler("hold")
    async def hold(args):
        started.set()
        await gate.wait()

    await worker.start()
    await worker.perform(Job("fail"))
    await worker.perform(Job("hold"))
    async with asyncio.timeout(DEADLINE):
        await started.wait()
        await worker.perform_in(Job("fail"), 1000)
        await worker.perform_many([Job("fail")] * 3)
        while True:
            counts = (await worker.counts())["default"]
            if counts == offload.QueueCounts(waiting=3, scheduled=1, running=1, dead=1):
                break
            await asyncio.sleep(0.01)
    assert set(await worker.counts()) == {"default"}
    gate.set()


async def test_connect_tells_claims_and_limits_and_a_start_the_loop(connect):
    worker = connect("simple://")
    assert (worker.claims, worker.limits) == (
        offload_simple.ADAPTER.claims,
        offload_simple.ADAPTER.limits,
    )
    assert worker.loop is None
    await worker.start()
    assert worker.loop is asyncio.get_running_loop()


async def test_the_decorator_takes_what_register_takes(connect):
    worker = connect("simple://")
    dead: list[str] = []

    class Observer:
        @offload.hookimpl
        def job_dead(self, job, error):
            dead.append(error)
            died.set()

    worker.observe(Observer())
    died, backoffs = asyncio.Event(), []

    def backoff(attempt):
        backoffs.append(attempt)
        return timedelta(0)

    @worker.handler("job", max_attempts=3, backoff=backoff, timeout=0.01)
    async def job(args):
        await asyncio.Event().wait()

    assert callable(job)
    await worker.start()
    await worker.perform(Job("job"))
    async with asyncio.timeout(DEADLINE):
        await died.wait()
    assert backoffs == [1, 2]
    assert "longer than 0.01 s" in dead[0]


async def test_a_retry_that_waits_is_counted_as_scheduled(connect, url):
    worker = connect(url)
    retried = asyncio.Event()

    class Observer:
        @offload.hookimpl
        def job_retried(self):
            retried.set()

    worker.observe(Observer())

    @worker.handler("job", backoff=offload.constant(1000))
    async def job(args):
        raise ValueError

    await worker.start()
    await worker.perform(Job("job"))
    async with asyncio.timeout(DEADLINE):
        await retried.wait()
    assert await worker.counts() == {"default": offload.QueueCounts(scheduled=1)}


async def test_the_default_backoff_is_that_of_exponential(connect):
    worker = connect("simple://")
    delays: list[timedelta] = []
    retried = asyncio.Event()

    class Observer:
        @offload.hookimpl
        def job_retried(self, delay):
            delays.append(delay)
            retried.set()

    worker.observe(Observer())

    @worker.handler("job")
    async def job(args):
        raise ValueError

    await worker.start()
    await worker.perform(Job("job"))
    async with asyncio.timeout(DEADLINE):
        await retried.wait()
    assert timedelta(seconds=0.5) <= delays[0] <= timedelta(seconds=1.5)


async def test_the_attempt_is_0_before_the_first_run(connect):
    worker = connect("simple://")
    enqueued: list[JobContext] = []

    class Observer:
        @offload.hookimpl
        def job_enqueued(self, job):
            enqueued.append(job)

    worker.observe(Observer())
    worker.register("job", nothing)
    await worker.perform(Job("job"))
    assert [context.attempt for context in enqueued] == [0]
