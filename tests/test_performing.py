"""REG and PERF: handlers, and performing."""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from datetime import UTC, datetime

import pytest
from support import DEADLINE, Log

from offload import (
    BackendUnavailableError,
    DuplicateHandlerError,
    InvalidJobError,
    Job,
    State,
    UnknownHandlerError,
    UsageError,
    current_job,
)


@pytest.mark.parametrize("name", ["", "a b", "é", "x" * 129, "a\n", None, 3, "a/b"])
def test_reg_1_bad_names(connect, name):
    with pytest.raises(ValueError, match="A-Z"):
        connect("simple://").register(name, print)


@pytest.mark.parametrize("name", ["a", "x" * 128, "mail.send:v2-Beta_1"])
def test_reg_1_good_names(connect, name):
    connect("simple://").register(name, print)


def test_reg_2_not_callable(connect):
    with pytest.raises(TypeError, match="not callable"):
        connect("simple://").register("x", "print")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"max_attempts": 0}, ValueError),
        ({"max_attempts": 1.5}, ValueError),
        ({"max_attempts": True}, ValueError),
        ({"timeout": 0}, ValueError),
        ({"timeout": float("inf")}, ValueError),
        ({"timeout": "5s"}, TypeError),
        ({"backoff": 5}, TypeError),
    ],
)
def test_register_refuses_bad_options(connect, options, error):
    worker = connect("simple://")
    with pytest.raises(error, match="'x'"):
        worker.register("x", print, **options)
    worker.register("x", print)


async def test_reg_3_the_first_handler_stays(connect, url, recorder):
    worker = connect(url)
    worker.register("note", recorder.note)
    with pytest.raises(DuplicateHandlerError):
        worker.register("note", recorder.hold)
    await worker.start()
    await worker.perform(Job("note"))
    await recorder.until(lambda: len(recorder.ended) == 1)


async def test_reg_4_registering_while_running(connect, url, recorder):
    worker = connect(url)
    await worker.start()
    worker.register("note", recorder.note)
    await worker.perform(Job("note"))
    await recorder.until_started(1)


class AsyncCallable:
    def __init__(self, recorder):
        self.recorder = recorder

    async def __call__(self, args):
        await self.recorder.note(args)


async def test_reg_5_every_kind_of_handler_runs(connect, url, recorder):
    worker = connect(url)
    threads = []

    def plain(args):
        threads.append(threading.current_thread())
        assert current_job().handler == "plain"

    worker.register("plain", plain)
    worker.register("async", recorder.note)
    worker.register("partial", functools.partial(recorder.note))
    worker.register("callable", AsyncCallable(recorder))
    worker.register("returns-awaitable", lambda args: recorder.note(args))
    log = Log()
    worker.observe(log)
    await worker.start()
    for name in ("plain", "async", "partial", "callable", "returns-awaitable"):
        await worker.perform(Job(name))
    await log.until("job_succeeded", 5)
    assert threads[0] is not threading.main_thread()
    assert {job.handler for job in recorder.started} == {
        "async",
        "partial",
        "callable",
        "returns-awaitable",
    }


async def test_reg_5_a_blocking_handler_stops_neither_the_loop_nor_other_jobs(
    connect, url, recorder
):
    worker = connect(url)
    release = threading.Event()
    worker.register("blocks", lambda args: release.wait(DEADLINE))
    worker.register("note", recorder.note)
    await worker.start()
    await worker.perform(Job("blocks"))
    await worker.perform(Job("note"))
    await recorder.until_started(1)
    release.set()


async def test_perf_1_and_2_each_job_has_its_id_and_runs_once(connect, url, recorder):
    worker = connect(url)
    worker.register("note", recorder.note)
    await worker.start()
    ids = [await worker.perform(Job("note", {"n": n})) for n in range(200)]
    ids += await worker.perform_many(Job("note", {"n": n}) for n in range(200, 2500))
    await recorder.until_started(2500)
    assert len(set(ids)) == 2500
    assert sorted(job.id for job in recorder.started) == sorted(ids)
    ran = {job.id: args["n"] for job, args in zip(recorder.started, recorder.args, strict=True)}
    assert [ran[job_id] for job_id in ids] == list(range(2500))


async def test_perf_2_jobs_of_a_queue_start_in_order(connect, url, recorder):
    worker = connect(url, concurrency=1)
    worker.register("note", recorder.note)
    for n in range(300):
        await worker.perform(Job("note", {"n": n}))
    await worker.start()
    await recorder.until_started(300)
    assert [args["n"] for args in recorder.args] == list(range(300))


async def test_perf_3_perform_waits_for_no_handler(connect, url, recorder):
    worker = connect(url, concurrency=1)
    worker.register("hold", recorder.hold)
    await worker.start()
    await worker.perform(Job("hold"))
    await recorder.until_started(1)
    await asyncio.wait_for(worker.perform(Job("hold")), DEADLINE)
    assert recorder.ended == []
    recorder.gate.set()


@pytest.mark.parametrize(
    "job",
    [
        Job(""),
        Job("a b"),
        Job(None),  # type: ignore[arg-type]
        Job("note", queue=""),
        Job("note", queue="a.b"),
        Job("note", queue="x" * 121),
        Job("note", queue=["a"]),  # type: ignore[arg-type]
        Job("note", args=None),  # type: ignore[arg-type]
        Job("note", args=[1]),  # type: ignore[arg-type]
        {"handler": "note"},
        "note",
        None,
    ],
    ids=repr,
)
async def test_perf_4_malformed_jobs(connect, url, job, recorder):
    worker = connect(url)
    worker.register("note", recorder.note)
    for call in (
        worker.perform(job),
        worker.perform_in(job, 0),
        worker.perform_at(job, datetime.now(UTC)),
        worker.perform_many([Job("note"), job]),
    ):
        with pytest.raises(InvalidJobError):
            await call
    assert await worker.counts() == {}


async def test_perf_5_performed_before_start(connect, url, recorder):
    worker = connect(url)
    worker.register("note", recorder.note)
    job_id = await worker.perform(Job("note"))
    assert worker.state is State.NEW
    await worker.start()
    await recorder.until_started(1)
    assert recorder.started[0].id == job_id


async def test_perf_6_an_unknown_handler(connect, url, recorder):
    worker = connect(url)
    worker.register("note", recorder.note)
    if worker.claims.distributed:
        await worker.perform(Job("elsewhere"))
        return
    for call in (
        worker.perform(Job("elsewhere")),
        worker.perform_in(Job("elsewhere"), 1),
        worker.perform_at(Job("elsewhere"), datetime.now(UTC)),
        worker.perform_many([Job("elsewhere")]),
    ):
        with pytest.raises(UnknownHandlerError, match="registered: note"):
            await call
    assert await worker.counts() == {}


async def test_perf_7_from_a_handler_and_from_1000_tasks(connect, url, recorder):
    worker = connect(url)
    worker.register("note", recorder.note)

    @worker.handler("spawn")
    async def spawn(args):
        await asyncio.gather(*(worker.perform(Job("note", {"n": n})) for n in range(1000)))

    await worker.start()
    await worker.perform(Job("spawn"))
    await recorder.until_started(1000)
    assert sorted(args["n"] for args in recorder.args) == list(range(1000))


async def test_perf_8_perform_with_the_backend_away(connect, tmp_path):
    worker = connect(f"sqlite:///{tmp_path}/none/jobs.db")
    began = time.monotonic()
    with pytest.raises(BackendUnavailableError) as caught:
        await worker.perform(Job("note"))
    assert not caught.value.maybe_stored
    assert time.monotonic() - began < 5


async def test_a_cancelled_perform_disturbs_no_other(connect, url, recorder):
    worker = connect(url)
    worker.register("note", recorder.note)
    await worker.start()
    performs = [asyncio.create_task(worker.perform(Job("note", {"n": n}))) for n in range(60)]
    await asyncio.sleep(0)
    for task in performs[::3]:
        task.cancel()
    results = await asyncio.gather(*performs, return_exceptions=True)
    kept = {r for r in results if isinstance(r, str)}
    assert len(kept) >= 40
    await recorder.until(lambda: kept <= {job.id for job in recorder.started})


def test_current_job_outside_a_handler():
    with pytest.raises(UsageError, match="outside a handler"):
        current_job()
