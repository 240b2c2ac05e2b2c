"""What hides that it runs nothing: found where it is registered, or told when it is called."""

from __future__ import annotations

import functools

import pytest
from support import Log

import offload
from offload import Job


class Instance:
    def __init__(self, args):
        """Nothing."""


async def asynchronous(args):
    ran.append("async")


def generator(args):
    yield args


ran: list[str] = []


@pytest.mark.parametrize(
    ("handler", "why"),
    [
        (functools.partial(Instance), "is a class"),
        (functools.partial(functools.partial(generator)), "yield"),
        (staticmethod(generator), "yield"),
        (functools.partial(staticmethod(generator)), "yield"),
    ],
    ids=["partial of a class", "partial of a partial", "staticmethod", "partial of one"],
)
def test_reg_2_what_is_wrapped_is_seen(connect, url, handler, why):
    with pytest.raises(TypeError, match=why):
        connect(url).register("name", handler)


class Lazy:
    """An object that seems to have every attribute."""

    def __getattr__(self, name):
        return lambda *args: None


class Broken:
    """An object whose attributes can't be looked at."""

    def __getattr__(self, name):
        raise RuntimeError(f"no connection for {name}")


@pytest.mark.parametrize("result", [Lazy(), Broken(), 0, "text"], ids=lambda r: type(r).__name__)
@pytest.mark.parametrize("kind", ["async def", "def"])
async def test_reg_5_what_a_handler_returns_is_passed_over(connect, url, kind, result):
    worker = connect(url, max_attempts=1)
    log = Log()
    worker.observe(log)

    async def async_handler(args):
        return result

    worker.register("name", async_handler if kind == "async def" else lambda args: result)
    worker.register("static", staticmethod(asynchronous))
    await worker.start()
    await worker.perform_many([Job("name"), Job("static")])
    await log.until("job_succeeded", 2)
    assert log.count("job_failed") == 0


def test_fail_6_an_observer_with_a_yield_is_refused(connect, url):
    class Yields:
        @offload.hookimpl
        def job_started(self, job):
            yield job

    with pytest.raises(ValueError, match="job_started has a `yield`"):
        connect(url).observe(Yields())


async def test_fail_6_an_observer_that_hides_a_coroutine_is_told(connect, url, recorder, caplog):
    def plain(function):
        @functools.wraps(function)
        def call(self, job):
            return function(self, job)

        return call

    class Hidden:
        @offload.hookimpl
        @plain
        async def job_started(self, job):
            raise AssertionError("nobody runs this")

    worker = connect(url)
    worker.observe(Hidden())
    worker.register("note", recorder.note)
    await worker.start()
    await worker.perform(Job("note"))
    await recorder.until_started(1)
    (record,) = [
        each for each in caplog.records if "observer raised in job_started" in each.msg % each.args
    ]
    assert "returned a coroutine" in record.exc_text
