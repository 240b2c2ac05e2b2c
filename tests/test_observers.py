"""Observers: what a worker tells of its work."""

from __future__ import annotations

from datetime import timedelta

import pytest
from support import Log

import offload
from offload import Job, Reject, constant


async def test_every_hook_is_told(connect, url, recorder):
    worker = connect(url, grace="0s")
    log = Log()
    worker.observe(log)
    worker.register("note", recorder.note)
    worker.register("flaky", recorder.failing(1), backoff=constant(timedelta(milliseconds=10)))
    worker.register("doomed", recorder.failing(9, lambda: Reject("no")))
    worker.register("hold", recorder.hold)
    await worker.start()
    ok = await worker.perform(Job("note"))
    await log.until("job_succeeded")
    await worker.perform(Job("flaky"))
    await log.until("job_succeeded", 2)
    await worker.perform(Job("doomed"))
    await log.until("job_dead")
    held = await worker.perform(Job("hold"))
    await log.until("job_started", 5)
    await worker.stop()
    names = [name for name, _ in log.events]
    assert names == [
        "worker_started",
        *["job_enqueued", "job_started", "job_succeeded"],
        *["job_enqueued", "job_started", "job_failed", "job_retried"],
        *["job_started", "job_succeeded"],
        *["job_enqueued", "job_started", "job_failed", "job_dead"],
        *["job_enqueued", "job_started", "job_returned", "worker_stopped"],
    ]
    enqueued, started = log.events[1][1], log.events[2][1]
    assert (enqueued.id, enqueued.attempt, enqueued.handler) == (ok, 0, "note")
    assert (started.id, started.attempt) == (ok, 1)
    assert log.last("job_returned").id == held
    assert log.last("job_retried") == timedelta(milliseconds=10)


async def test_perform_many_tells_of_each_job(connect, url):
    worker = connect(url)
    log = Log()
    worker.observe(log)
    worker.register("note", print)
    ids = await worker.perform_many([Job("note"), Job("note")])
    assert [what.id for name, what in log.events if name == "job_enqueued"] == ids


def test_an_observer_that_observes_nothing_is_refused():
    class Nothing:
        def job_started(self, job):
            """Not marked."""

    worker = offload.connect("simple://")
    with pytest.raises(ValueError, match=r"offload\.hookimpl"):
        worker.observe(Nothing())


def test_an_observer_of_an_unknown_hook_is_refused():
    class Typo:
        @offload.hookimpl
        def job_startet(self, job):
            """No such hook."""

    worker = offload.connect("simple://")
    with pytest.raises(ValueError, match="job_startet"):
        worker.observe(Typo())


async def test_a_def_handler_is_told_of_too(connect, url):
    worker = connect(url)
    log = Log()
    worker.observe(log)
    worker.register("plain", lambda args: None)
    await worker.start()
    await worker.perform(Job("plain"))
    await log.until("job_succeeded")
    assert log.count("job_started") == 1
