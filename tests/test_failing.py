"""FAIL and DEAD: what becomes of jobs whose handler fails."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from support import Log

from offload import Job, Reject, Retry, constant, current_job, hookimpl

SOON = constant(timedelta(milliseconds=20))


async def test_fail_1_attempts_count_from_1_and_fail_3_the_last_is_a_dead_letter(
    connect, url, recorder
):
    worker = connect(url)
    log = Log()
    worker.observe(log)
    worker.register("fail", recorder.failing(99), max_attempts=3, backoff=SOON)
    await worker.start()
    job_id = await worker.perform(Job("fail", {"a": 1}))
    await log.until("job_dead")
    assert [job.attempt for job in recorder.started] == [1, 2, 3]
    (letter,) = await worker.dead_letters.list()
    assert (letter.id, letter.queue, letter.handler) == (job_id, "default", "fail")
    assert letter.args == {"a": 1}
    assert letter.attempts == 3
    assert letter.error == "ValueError"
    assert letter.traceback.startswith("Traceback") and "raise error()" in letter.traceback
    assert "offload/engine" not in letter.traceback
    assert letter.died_at >= recorder.started[-1].due_at


async def test_fail_1_the_options_of_who_runs_it_count(connect, url, recorder):
    worker, performer = connect(url), connect(url)
    if not worker.claims.distributed:
        pytest.skip("who performs runs it, too")
    performer.register("fail", recorder.failing(99), max_attempts=1, backoff=constant(3600))
    worker.register("fail", recorder.failing(99), max_attempts=3, backoff=SOON)
    log = Log()
    worker.observe(log)
    await worker.start()
    await performer.perform(Job("fail"))
    await log.until("job_dead")
    assert [job.attempt for job in recorder.started] == [1, 2, 3]


async def test_fail_1_the_workers_max_attempts(connect, url, recorder):
    worker = connect(url, max_attempts=2)
    log = Log()
    worker.observe(log)
    worker.register("fail", recorder.failing(99), backoff=SOON)
    await worker.start()
    await worker.perform(Job("fail"))
    await log.until("job_dead")
    assert len(recorder.started) == 2


async def test_fail_2_never_before_the_backoff(connect, url, recorder):
    worker = connect(url)
    waits = []

    def backoff(attempt):
        waits.append(attempt)
        return timedelta(milliseconds=100 * attempt)

    failed_at = []

    async def fail(args):
        import time

        failed_at.append(time.time())
        await recorder.failing(2)(args)

    worker.register("fail", fail, backoff=backoff)
    await worker.start()
    await worker.perform(Job("fail"))
    await recorder.until_started(3)
    assert waits == [1, 2]
    assert failed_at[1] - failed_at[0] >= 0.1
    assert failed_at[2] - failed_at[1] >= 0.2


@pytest.mark.parametrize(
    "error", [SystemExit, KeyboardInterrupt, asyncio.CancelledError, GeneratorExit, BaseException]
)
@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_fail_4_no_exception_ends_the_worker(connect, url, recorder, error, kind):
    worker = connect(url)
    log = Log()
    worker.observe(log)

    async def fail(args):
        raise error

    def fail_sync(args):
        raise error

    worker.register("fail", fail if kind == "async" else fail_sync, max_attempts=2, backoff=SOON)
    worker.register("note", recorder.note)
    await worker.start()
    await worker.perform(Job("fail"))
    await log.until("job_dead")
    assert error.__name__ in log.last("job_dead")
    assert log.count("job_failed") == 2
    await worker.perform(Job("note"))
    await recorder.until_started(1)


@pytest.mark.parametrize("swallows", [False, True])
async def test_fail_5_a_timeout_is_a_failure(connect, url, swallows):
    worker = connect(url)
    log = Log()
    worker.observe(log)

    async def slow(args):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if not swallows:
                raise

    worker.register("slow", slow, timeout=timedelta(milliseconds=50), max_attempts=1)
    await worker.start()
    await worker.perform(Job("slow"))
    await log.until("job_dead")
    assert log.last("job_dead") == "TimeoutError: the handler took longer than 0.05 s"


async def test_fail_5_a_handlers_own_timeout_error_stays_its_own(connect, url):
    worker = connect(url)
    log = Log()
    worker.observe(log)

    async def fail(args):
        raise TimeoutError

    worker.register("fail", fail, timeout=5, max_attempts=1)
    await worker.start()
    await worker.perform(Job("fail"))
    await log.until("job_dead")
    assert log.last("job_dead") == "TimeoutError"


async def test_fail_6_neither_a_failing_job_nor_an_observer_disturbs_another(
    connect, url, recorder
):
    class Broken:
        @hookimpl
        def job_started(self, job):
            raise RuntimeError("broken observer")

        @hookimpl
        def job_succeeded(self, job):
            raise RuntimeError("broken observer")

        @hookimpl
        def worker_started(self, worker):
            raise RuntimeError("broken observer")

    worker = connect(url)
    worker.observe(Broken())
    worker.register("fail", recorder.failing(99), backoff=SOON)
    worker.register("note", recorder.note)
    await worker.start()
    await worker.perform_many([Job("fail"), Job("note")] * 10)
    await recorder.until(lambda: [job.handler for job in recorder.started].count("note") == 10)
    await worker.stop()
    assert all(counts.running == 0 for counts in (await worker.counts()).values())


async def test_fail_7_no_handler_at_the_consumer(connect, sqlite_url):
    performer = connect(sqlite_url)
    await performer.perform(Job("nobody"))
    worker = connect(sqlite_url, max_attempts=1)
    log = Log()
    worker.observe(log)
    await worker.start()
    await log.until("job_dead")
    assert "handler 'nobody' is not registered" in log.last("job_dead")
    (letter,) = await worker.dead_letters.list()
    assert letter.handler == "nobody"


async def test_fail_7_is_retried_until_there_is_one(connect, sqlite_url, recorder):
    performer = connect(sqlite_url)
    await performer.perform(Job("later"))
    worker = connect(sqlite_url)
    log = Log()
    worker.observe(log)
    await worker.start()
    await log.until("job_retried")
    worker.register("later", recorder.note)
    await recorder.until_started(1)
    assert recorder.started[0].attempt == 2


async def test_fail_9_retry_after(connect, url, recorder):
    worker = connect(url)
    log = Log()
    worker.observe(log)

    async def later(args):
        await recorder.note(args)
        if current_job().attempt < 3:
            raise Retry(after=0.03)

    worker.register("later", later, backoff=constant(timedelta(hours=1)))
    await worker.start()
    await worker.perform(Job("later"))
    await log.until("job_succeeded")
    assert log.last("job_retried") == timedelta(milliseconds=30)
    assert len(recorder.started) == 3


async def test_fail_9_retry_ends_as_a_dead_letter_too(connect, url):
    worker = connect(url, max_attempts=2)
    log = Log()
    worker.observe(log)

    async def later(args):
        raise Retry(after=timedelta(0), reason="not ready")

    worker.register("later", later)
    await worker.start()
    await worker.perform(Job("later"))
    await log.until("job_dead")
    assert log.last("job_dead").endswith("not ready")


async def test_fail_9_reject(connect, url):
    worker = connect(url)
    log = Log()
    worker.observe(log)

    async def refuse(args):
        raise Reject("no such user")

    worker.register("refuse", refuse)
    await worker.start()
    await worker.perform(Job("refuse"))
    await log.until("job_dead")
    (letter,) = await worker.dead_letters.list()
    assert letter.attempts == 1
    assert letter.error.endswith("no such user")


async def test_a_backoff_that_fails_loses_nothing(connect, url, recorder):
    def broken(attempt):
        raise ZeroDivisionError

    worker = connect(url)
    log = Log()
    worker.observe(log)
    worker.register("fail", recorder.failing(1), backoff=broken)
    await worker.start()
    await worker.perform(Job("fail"))
    await log.until("job_succeeded")


async def test_an_error_that_can_not_be_shown_is_kept_all_the_same(connect, url):
    class Nasty(Exception):
        def __str__(self):
            raise RuntimeError

    worker = connect(url, max_attempts=1)
    log = Log()
    worker.observe(log)

    @worker.handler("nasty")
    async def nasty(args):
        raise Nasty

    @worker.handler("surrogate")
    async def surrogate(args):
        raise ValueError("\ud800" * 5000)

    await worker.start()
    await worker.perform(Job("nasty"))
    await worker.perform(Job("surrogate"))
    await log.until("job_dead", 2)
    letters = await worker.dead_letters.list()
    assert len(letters) == 2
    assert all(len(letter.error) <= 10_000 for letter in letters)


async def make_dead(worker, log, count):
    async def fail(args):
        raise Reject(str(args["n"]))

    worker.register("fail", fail)
    await worker.start()
    for n in range(count):
        await worker.perform(Job("fail", {"n": n}))
        await log.until("job_dead", n + 1)


async def test_dead_1_list_by_page(connect, url):
    worker = connect(url)
    log = Log()
    worker.observe(log)
    await make_dead(worker, log, 7)
    pages, after = [], None
    while page := await worker.dead_letters.list(limit=3, after=after):
        pages.append([letter.args["n"] for letter in page])
        after, last = page[-1].cursor, page[-1].id
    assert pages == [[0, 1, 2], [3, 4, 5], [6]]
    assert await worker.dead_letters.show("unknown") is None
    assert (await worker.dead_letters.show(last)).args == {"n": 6}
    assert (await worker.counts())["default"].dead == 7


async def test_dead_2_requeue_runs_as_attempt_1(connect, url, recorder):
    worker = connect(url)
    log = Log()
    worker.observe(log)
    worker.register("sometimes", recorder.failing(2), max_attempts=2, backoff=SOON)
    await worker.start()
    job_id = await worker.perform(Job("sometimes"))
    await log.until("job_dead")
    assert await worker.dead_letters.requeue([job_id, "unknown", job_id]) == [job_id]
    await log.until("job_dead", 2)
    assert [job.attempt for job in recorder.started] == [1, 2, 1, 2]
    assert {job.id for job in recorder.started} == {job_id}


async def test_dead_3_discard(connect, url):
    worker = connect(url)
    log = Log()
    worker.observe(log)
    await make_dead(worker, log, 2)
    first, second = await worker.dead_letters.list()
    assert await worker.dead_letters.discard([first.id, "unknown"]) == [first.id]
    assert [letter.id for letter in await worker.dead_letters.list()] == [second.id]
