"""Handlers that aren't what they seem: refused where they are registered, or run as they are."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import threading
from unittest import mock

import pytest
from support import DEADLINE, Log

import offload
from offload import Job


def generator(args):
    yield args


async def async_generator(args):
    yield args


class CallsAGenerator:
    def __call__(self, args):
        yield args


class Instance:
    def __call__(self, args):
        """Nothing."""


REFUSED = {
    "a generator function": (generator, "yield"),
    "an async generator function": (async_generator, "yield"),
    "a partial of one": (functools.partial(generator), "yield"),
    "an object whose call is one": (CallsAGenerator(), "yield"),
    "a class": (Instance, "is a class"),
    "no argument": (lambda: None, "not one argument"),
    "two arguments": (lambda args, more: None, "not one argument"),
    "a keyword that is needed": (lambda args, *, more: None, "not one argument"),
    "keywords alone": (lambda **args: None, "not one argument"),
    "a partial that has all": (functools.partial(lambda args: None, {}), "not one argument"),
    "no function": ("handler", "not callable"),
    "a coroutine": (None, "not callable"),
}


@pytest.mark.parametrize(("handler", "why"), REFUSED.values(), ids=REFUSED.keys())
def test_reg_2_what_would_run_nothing_is_refused(connect, url, handler, why):
    worker = connect(url)
    with pytest.raises(TypeError, match=rf"handler 'name': .*{why}"):
        worker.register("name", handler)
    worker.register("name", lambda args: None)  # the name is still free


def decorated(function):
    @functools.wraps(function)
    def call(args):
        return function(args, "a connection")

    return call


ran: list[object] = []


@decorated
def needs_two(args, connection):
    ran.append(connection)


class Service:
    def method(self, args):
        ran.append("method")

    async def async_method(self, args, optional=None):
        ran.append("async method")

    @staticmethod
    def static(args):
        ran.append("static")

    @classmethod
    def of_class(cls, *args):
        ran.append("class")

    async def __call__(self, args):
        ran.append("call")


async def returns_an_awaitable(args):
    return Service().async_method(args)


def returns_a_coroutine(args):
    return Service().async_method(args)


ACCEPTED = {
    "a decorated one": (needs_two, "a connection"),
    "a method": (Service().method, "method"),
    "an async method": (Service().async_method, "async method"),
    "a static method": (Service.static, "static"),
    "a class method": (Service.of_class, "class"),
    "an object with an async call": (Service(), "call"),
    "a partial of an async one": (
        functools.partial(Service().async_method, optional=1),
        "async method",
    ),
    "what returns a coroutine": (returns_a_coroutine, "async method"),
    "an async one that returns an awaitable": (returns_an_awaitable, "async method"),
    "a lambda that does": (lambda args: Service().async_method(args), "async method"),
}


@pytest.mark.parametrize(("handler", "what"), ACCEPTED.values(), ids=ACCEPTED.keys())
async def test_reg_5_what_can_run_runs(connect, url, handler, what):
    worker = connect(url)
    log = Log()
    worker.observe(log)
    worker.register("name", handler)
    ran.clear()
    await worker.start()
    await worker.perform(Job("name"))
    await log.until("job_succeeded")
    assert ran == [what]


@pytest.mark.parametrize(
    "handler", [mock.Mock(return_value=None), mock.AsyncMock(return_value=None), print]
)
async def test_reg_5_what_tells_nothing_of_itself_is_tried(connect, url, handler):
    worker = connect(url)
    log = Log()
    worker.observe(log)
    worker.register("name", handler)
    await worker.start()
    await worker.perform(Job("name"))
    await log.until("job_succeeded")


@pytest.mark.parametrize(
    "handler",
    [lambda args: generator(args), lambda args: async_generator(args)],
    ids=["a generator", "an async generator"],
)
async def test_fail_1_a_generator_that_is_returned_is_a_failure(connect, url, handler):
    worker = connect(url, max_attempts=1)
    log = Log()
    worker.observe(log)
    worker.register("plain", handler)

    @worker.handler("async")
    async def asynchronous(args):
        return handler(args)

    await worker.start()
    await worker.perform_many([Job("plain"), Job("async")])
    await log.until("job_dead", 2)
    assert "generator, which nobody runs" in log.last("job_dead")


@contextlib.contextmanager
def managed(args):
    yield


def factory(function):
    return lambda args: function(args)


LAZY = {
    "a map": lambda args: map(print, "ab"),
    "a filter": lambda args: filter(print, "ab"),
    "a context manager": managed,
    "a function": factory,
    "a partial": lambda args: functools.partial(print, args),
    "coroutines": lambda args: [asyncio.sleep(0), asyncio.sleep(0)],
}


@pytest.mark.parametrize("handler", LAZY.values(), ids=LAZY.keys())
async def test_fail_1_work_that_nobody_would_do_is_a_failure(connect, url, handler):
    worker = connect(url, max_attempts=1)
    log = Log()
    worker.observe(log)
    worker.register("lazy", handler)
    await worker.start()
    await worker.perform(Job("lazy"))
    await log.until("job_dead")
    assert "which nobody runs" in log.last("job_dead")


async def test_fail_1_a_future_of_a_thread_is_waited_for(connect, url):
    worker = connect(url, max_attempts=1)
    log = Log()
    worker.observe(log)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        worker.register("bad", lambda args: pool.submit(int, "no number"))
        worker.register("good", lambda args: pool.submit(int, "1"))
        await worker.start()
        await worker.perform_many([Job("bad"), Job("good")])
        await log.until("job_dead")
        await log.until("job_succeeded")
    assert "invalid literal" in log.last("job_dead")


@pytest.mark.parametrize(
    "backoff",
    [asyncio.sleep, generator, lambda: 1, lambda a, b: 1, "1 s"],
    ids=["async", "generator", "none", "two", "text"],
)
def test_a_backoff_that_never_tells_a_time_is_refused(connect, url, backoff):
    with pytest.raises(TypeError, match="a backoff is a `def`"):
        connect(url).register("name", print, backoff=backoff)


@pytest.mark.parametrize("options", [{"timeout": 10**400}, {"max_attempts": 10**5000}])
def test_numbers_beyond_all_use_are_refused(connect, url, options):
    with pytest.raises(ValueError, match="must be"):
        connect(url).register("name", print, **options)


def test_a_handler_that_raises_at_any_look_can_be_registered(connect, url):
    class Shy:
        def __call__(self, args):
            """Nothing."""

        def __getattr__(self, name):
            raise RuntimeError(name)

    connect(url).register("name", Shy())


@pytest.mark.parametrize("observer", [None, Log], ids=["nothing", "a class"])
def test_what_is_no_observer_is_refused(connect, url, observer):
    with pytest.raises(ValueError, match="is no observer"):
        connect(url).observe(observer)


def test_a_handler_needs_parentheses(connect, url):
    worker = connect(url)
    with pytest.raises(TypeError, match=r'write @worker\.handler\("send_email"\)'):

        @worker.handler
        def send_email(args):
            """Never registered."""


def test_an_async_observer_is_refused(connect, url):
    class Async:
        @offload.hookimpl
        async def job_failed(self, job):
            """Would never run."""

        @offload.hookimpl
        def job_started(self, job):
            raise AssertionError("it was refused as a whole")

    worker = connect(url)
    with pytest.raises(ValueError, match="job_failed is `async`"):
        worker.observe(Async())


async def test_fail_5_a_handler_deaf_to_its_cancellation_fails_at_its_timeout(
    connect, url, recorder, caplog
):
    """Its slot is busy as long as it runs, and what it does in the end changes nothing."""
    let_go = asyncio.Event()
    worker = connect(url, concurrency=1, max_attempts=1)
    log = Log()
    worker.observe(log)

    async def deaf(args):
        while not let_go.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await let_go.wait()

    worker.register("deaf", deaf, timeout=0.05)
    worker.register("note", recorder.note)
    await worker.start()
    await worker.perform_many([Job("deaf"), Job("note")])
    await log.until("job_dead")
    assert "took longer than 0.05 s" in log.last("job_dead")
    assert not recorder.started
    assert sum("ignores its cancellation" in line for line in caplog.messages) == 1
    let_go.set()
    await recorder.until_started(1)
    await worker.stop()
    assert log.count("job_succeeded") == 1
    assert (await worker.counts())["default"].dead == 1


async def test_fail_5_what_a_handler_does_in_its_finally_is_waited_for(connect, url):
    worker = connect(url, max_attempts=1)
    log = Log()
    worker.observe(log)
    cleaned: list[str] = []

    async def careful(args):
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.05)
            cleaned.append("up")

    worker.register("careful", careful, timeout=0.05)
    await worker.start()
    await worker.perform(Job("careful"))
    await log.until("job_dead")
    assert cleaned == ["up"]
    assert "took longer" in log.last("job_dead")


async def test_life_7_a_deaf_handler_holds_up_no_stop(connect, url):
    worker = connect(url, grace="100ms", max_attempts=1)
    log = Log()
    worker.observe(log)
    let_go = threading.Event()

    async def deaf(args):
        while not let_go.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.01)

    worker.register("deaf", deaf, timeout=0.05)
    await worker.start()
    await worker.perform(Job("deaf"))
    await log.until("job_dead")
    async with asyncio.timeout(DEADLINE / 2):
        report = await worker.stop()
    let_go.set()
    assert (report.returned, report.lost) == ((), ())


async def test_conc_1_no_thread_left_costs_no_slot(connect, url, recorder, monkeypatch):
    worker = connect(url, concurrency=1, max_attempts=2)
    log = Log()
    worker.observe(log)
    worker.register("plain", lambda args: None, backoff=offload.constant(0))
    worker.register("note", recorder.note)
    await worker.start()
    start = threading.Thread.start
    failures = iter([True, False])

    def refuse(thread):
        if thread.name.startswith("offload-handler") and next(failures, False):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    await worker.perform_many([Job("plain"), Job("note")])
    await recorder.until_started(1)
    await log.until("job_succeeded", 2)
    assert "job_failed" not in [name for name, _ in log.events]
