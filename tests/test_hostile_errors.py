"""Whatever a handler raises is a failure of its job: no slot and no other job is lost."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from pathlib import Path

import pytest
from support import Log

import offload
from offload import Job, Reject, Retry, constant, current_job
from offload_sqlite.conformance import inject_into

FAR = timedelta(days=365)


class NoAttributes(Exception):
    def __getattr__(self, name):
        raise RuntimeError(f"there is no {name}")


class NoText(Exception):
    def __str__(self):
        raise SystemExit("no text")

    __repr__ = __str__


class NoClass(Exception):
    @property
    def __class__(self):
        raise KeyboardInterrupt("no class")


class NotesThatRaise(Exception):
    @property
    def __notes__(self):
        raise asyncio.CancelledError


class Endless(Exception):
    def __str__(self):
        return str(self)


class RetryWithANumber(Retry):
    def __init__(self):
        Exception.__init__(self, "soon")
        self.after = 0.01


class RetryWithText(Retry):
    def __init__(self):
        Exception.__init__(self, "soon")
        self.after = "soon"


class RetryThatRaises(Retry):
    def __init__(self):
        Exception.__init__(self, "soon")

    @property
    def after(self):
        raise ZeroDivisionError


class RetryWithNaN(Retry):
    def __init__(self):
        Exception.__init__(self, "soon")
        self.after = float("nan")


def chained(depth: int) -> Exception:
    error = ValueError("the first")
    for number in range(depth):
        following = ValueError(f"number {number}")
        following.__cause__ = error
        error = following
    return error


def in_a_circle() -> Exception:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__context__ = second, first
    return first


def nested(depth: int) -> Exception:
    error: Exception = ValueError("inmost")
    for _ in range(depth):
        error = ExceptionGroup("group", [error])
    return error


ERRORS = {
    "no attributes": NoAttributes,
    "no text": NoText,
    "no class": NoClass,
    "notes that raise": NotesThatRaise,
    "endless text": Endless,
    "a syntax error without text": lambda: SyntaxError("x", ("f", 1, 1, 7)),
    "a syntax error of odd parts": lambda: SyntaxError("x", (None, "1", b"", object())),
    "a unicode error of nothing": lambda: UnicodeDecodeError("utf-8", b"", 5, -1, "\ud800"),
    "an OS error of odd parts": lambda: OSError(object(), object(), object()),
    "a key error of a surrogate": lambda: KeyError("\udfff\0\x1b[2J"),
    "ten million characters": lambda: ValueError("x" * 10_000_000),
    "a chain of 3,000": lambda: chained(3000),
    "a circle": in_a_circle,
    "groups in groups": lambda: nested(300),
    "a group of 5,000": lambda: ExceptionGroup("many", [ValueError(str(n)) for n in range(5000)]),
    "StopIteration": StopIteration,
    "StopAsyncIteration": StopAsyncIteration,
    "GeneratorExit": GeneratorExit,
    "MemoryError": MemoryError,
    "CancelledError": asyncio.CancelledError,
    "TimeoutError": TimeoutError,
    "asyncio's InvalidStateError": asyncio.InvalidStateError,
    "RetryWithANumber": RetryWithANumber,
    "RetryWithText": RetryWithText,
    "RetryThatRaises": RetryThatRaises,
    "RetryWithNaN": RetryWithNaN,
    "the class Retry": lambda: Retry,
    "a wait beyond all bounds": lambda: Retry(after=timedelta.max),
    "a negative wait": lambda: RetryWithANumber.__new__(RetryWithANumber),
}


@pytest.mark.parametrize("max_attempts", [1, 2], ids=["dead", "retried"])
@pytest.mark.parametrize("kind", ["async def", "def"])
@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS.keys())
async def test_fail_6_an_error_of_any_kind_is_a_failure_of_its_job_alone(
    connect, url, recorder, error, kind, max_attempts
):
    worker = connect(url, concurrency=2, max_attempts=max_attempts)
    log = Log()
    worker.observe(log)

    async def fail(args):
        raise error()

    def fail_in_a_thread(args):
        raise error()

    handler = fail if kind == "async def" else fail_in_a_thread
    worker.register("fail", handler, backoff=constant(0))
    worker.register("note", recorder.note)
    await worker.start()
    # More than there are slots, so that none may be lost.
    await worker.perform_many([Job("fail"), Job("note")] * 3)
    await recorder.until_started(3)
    await log.until("job_dead" if max_attempts == 1 else "job_retried", 3)
    await worker.perform(Job("note"))
    await recorder.until_started(4)
    await worker.stop()
    assert (await worker.counts())["default"].running == 0
    if max_attempts == 1:
        assert len(await worker.dead_letters.list()) == 3


@pytest.mark.parametrize(
    ("backoff", "expected"),
    [
        (lambda attempt: 0.25, timedelta(milliseconds=250)),
        (lambda attempt: timedelta(days=-3), timedelta(0)),
        (lambda attempt: timedelta.max, timedelta(days=36_500)),
        (lambda attempt: float("inf"), timedelta(days=36_500)),
        (lambda attempt: 1e300, timedelta(days=36_500)),
        (lambda attempt: Retry(after=timedelta.max).after, timedelta(days=36_500)),
    ],
)
async def test_fail_2_every_wait_is_kept_as_far_as_the_backend_can(
    connect, url, recorder, backoff, expected
):
    worker = connect(url)
    log = Log()
    worker.observe(log)
    worker.register("fail", recorder.failing(1), backoff=backoff)
    await worker.start()
    await worker.perform(Job("fail"))
    await log.until("job_retried")
    assert log.last("job_retried") == expected


@pytest.mark.parametrize("answer", [None, "1 s", float("nan"), True, object()])
async def test_fail_1_a_backoff_that_is_no_time_is_the_default(connect, url, recorder, answer):
    worker = connect(url)
    log = Log()
    worker.observe(log)
    worker.register("fail", recorder.failing(1), backoff=lambda attempt: answer)
    await worker.start()
    await worker.perform(Job("fail"))
    await log.until("job_retried")
    assert timedelta(seconds=1) <= log.last("job_retried") < timedelta(seconds=2)


async def test_fail_9_reject_needs_no_reason(connect, url):
    worker = connect(url)
    log = Log()
    worker.observe(log)

    @worker.handler("reject")
    async def reject(args):
        raise Reject

    await worker.start()
    await worker.perform(Job("reject"))
    await log.until("job_dead")
    (letter,) = await worker.dead_letters.list()
    assert (letter.attempts, letter.error) == (1, "offload.Reject: the handler rejected it")


class Silent:
    """An observer whose every hook raises what would end an event loop."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    @offload.hookimpl
    def job_started(self):
        raise self.error

    job_failed = job_succeeded = job_retried = job_dead = job_enqueued = job_started


@pytest.mark.parametrize(
    "error", [SystemExit(3), KeyboardInterrupt("no"), asyncio.CancelledError()]
)
async def test_fail_6_an_observer_may_raise_anything(connect, url, recorder, error):
    worker = connect(url, concurrency=1, max_attempts=1)
    worker.observe(Silent(error))
    worker.register("fail", recorder.failing(9))
    worker.register("note", recorder.note)
    await worker.start()
    await worker.perform_many([Job("fail"), Job("note")] * 3)
    await recorder.until(lambda: len(recorder.started) == 6)
    await worker.stop()
    counts = (await worker.counts())["default"]
    assert (counts.running, counts.waiting, counts.dead) == (0, 0, 3)


class Furious(logging.Handler):
    def emit(self, record):
        raise SystemExit("no log today")


async def test_fail_6_a_log_that_raises_costs_no_job(connect, url, recorder):
    furious = Furious()
    logging.getLogger("offload").addHandler(furious)
    try:
        worker = connect(url, concurrency=1, max_attempts=1)
        worker.register("fail", recorder.failing(9))
        worker.register("note", recorder.note)
        await worker.start()
        await worker.perform_many([Job("fail"), Job("note"), Job("fail"), Job("note")])
        await recorder.until(lambda: len(recorder.started) == 4)
        await recorder.until(lambda: len(recorder.ended) == 4)
    finally:
        logging.getLogger("offload").removeHandler(furious)
    await worker.stop()
    assert (await worker.counts())["default"].dead == 2


async def test_each_failed_attempt_is_one_line_in_the_log(connect, url, recorder, caplog):
    worker = connect(url)
    log = Log()
    worker.observe(log)
    worker.register("fail", recorder.failing(9, lambda: ValueError("a\nb\x1b[2J")), max_attempts=2,
                    backoff=constant(timedelta(milliseconds=20)))  # fmt: skip
    await worker.start()
    job_id = await worker.perform(Job("fail"))
    await log.until("job_dead")
    lines = [record for record in caplog.records if record.name == "offload.job"]
    assert [(record.levelname, record.getMessage()) for record in lines] == [
        (
            "WARNING",
            f"job {job_id} (fail): attempt 1 of 2 failed, the next comes in 20ms: ValueError: a",
        ),
        (
            "ERROR",
            f"job {job_id} (fail): attempt 2 of 2 failed; it is a dead letter: ValueError: a",
        ),
    ]
    assert "Traceback (most recent call last)" in lines[1].exc_text
    assert lines[0].exc_text is None


async def test_a_name_from_the_wire_forges_no_line(connect, sqlite_url, caplog):
    path = sqlite_url.removeprefix("sqlite:///")
    worker = connect(sqlite_url, max_attempts=1)
    log = Log()
    worker.observe(log)
    await worker.start()
    body = b'{"v":1,"id":"x","handler":"a\\nERROR \\u001b[2J forged","enqueued_ms":1,"args":{}}'
    inject = inject_into(Path(path))
    await inject(namespace="offload", queue="default", body=body)
    await worker.perform(Job("nobody"))
    await log.until("job_dead", 2)
    messages = [record.getMessage() for record in caplog.records]
    assert any("(a\\nERROR \\x1b[2J forged)" in message for message in messages), "none is cut"
    assert all(message.isprintable() for message in messages)


async def test_perform_many_names_the_job_that_it_refuses(connect, url, recorder):
    worker = connect(url)
    worker.register("note", recorder.note)
    jobs = [Job("note")] * 3 + [Job("note", {"x": {1}})] + [Job("note")]
    with pytest.raises(offload.InvalidJobError, match=r"job 3 of 5 .*'note': args\.x: set"):
        await worker.perform_many(jobs)
    with pytest.raises(offload.InvalidJobError, match=r"job 1 of 2 \(from 0\): a Job is performed"):
        await worker.perform_many([Job("note"), "note"])
    with pytest.raises(offload.JobTooLargeError, match="job 0 of 1"):
        await worker.perform_many([Job("note", {"x": "y" * (2 << 20)})])


@pytest.mark.parametrize("number", [0.2, 5, 0])
def test_a_backoff_takes_seconds(number):
    assert constant(number)(1) == timedelta(seconds=number)
    assert offload.exponential(number, jitter=0, limit=60)(2) == timedelta(seconds=2 * number)


@pytest.mark.parametrize(
    "make",
    [
        lambda: constant(-1),
        lambda: constant(float("nan")),
        lambda: constant(True),
        lambda: constant("1s"),
        lambda: constant(timedelta(seconds=-1)),
        lambda: constant(1e300),
        lambda: offload.exponential("1s"),
        lambda: offload.exponential(1, factor=float("inf")),
        lambda: offload.exponential(1, jitter=-0.5),
        lambda: offload.exponential(1, limit=None),
        lambda: Retry(after=-3),
        lambda: Retry(after="soon"),
    ],
)
def test_a_backoff_of_no_time_is_refused_where_it_is_made(make):
    with pytest.raises((TypeError, ValueError), match=r"must (not )?be|beyond"):
        make()


def test_the_job_of_a_handler_is_its_own():
    with pytest.raises(offload.UsageError):
        current_job()
