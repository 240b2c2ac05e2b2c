"""QUE and CONC: which jobs run here, and how many at once."""

from __future__ import annotations

import asyncio
import threading

import pytest
from support import DEADLINE, Log

from offload import Job, UnknownQueueError


async def test_que_1_and_2_only_the_workers_own_queues(connect, url, recorder):
    worker = connect(url, queues="a,b")
    worker.register("note", recorder.note)
    await worker.start()
    if worker.claims.distributed:
        await worker.perform(Job("note", queue="c"))
    else:
        with pytest.raises(UnknownQueueError, match="its queues: a, b"):
            await worker.perform(Job("note", queue="c"))
    await worker.perform(Job("note", queue="a"))
    await worker.perform(Job("note", queue="b"))
    await recorder.until_started(2)
    assert sorted(job.queue for job in recorder.started) == ["a", "b"]
    if worker.claims.distributed:
        assert (await worker.counts())["c"].waiting == 1
        elsewhere = connect(url, queues="c")
        elsewhere.register("note", recorder.note)
        await elsewhere.start()
        await recorder.until_started(3)


async def test_que_3_no_queue_starves(connect, url, recorder):
    worker = connect(url, queues="full,other", concurrency=2)
    worker.register("note", recorder.note)
    await worker.perform_many([Job("note", queue="full")] * 1000)
    await worker.perform(Job("note", queue="other"))
    await worker.start()
    await recorder.until_started(1001)
    position = [job.queue for job in recorder.started].index("other")
    assert position < 10


async def test_conc_1_and_2_as_many_as_allowed_and_never_more(connect, url, recorder):
    worker = connect(url, concurrency=7)
    worker.register("hold", recorder.hold)
    await worker.start()
    await worker.perform_many([Job("hold")] * 50)
    await recorder.until(lambda: recorder.running == 7)
    recorder.gate.set()
    await recorder.until(lambda: len(recorder.ended) == 50)
    assert recorder.most_running == 7


async def test_conc_1_a_handler_that_outlives_a_stop_keeps_its_slot(connect, url):
    worker = connect(url, concurrency=3, grace="0s")
    begun, let_go = threading.Event(), threading.Event()
    running: list[int] = []
    ended: list[int] = []
    most = 0

    def deaf_at_first(args):
        if not begun.is_set():
            begun.set()
            let_go.wait(DEADLINE)

    async def brief(args):
        nonlocal most
        running.append(1)
        most = max(most, len(running))
        await asyncio.sleep(0.001)
        ended.append(running.pop())

    async def most_at_once() -> int:
        nonlocal most
        most, before = 0, len(ended)
        await worker.perform_many([Job("brief")] * 30)
        while len(ended) < before + 30:
            await asyncio.sleep(0.001)
        return most

    worker.register("deaf", deaf_at_first)
    worker.register("brief", brief)
    await worker.start()
    await worker.perform(Job("deaf"))
    await asyncio.to_thread(begun.wait, DEADLINE)
    await worker.stop()
    await worker.start()
    async with asyncio.timeout(DEADLINE):
        assert await most_at_once() == 2
        let_go.set()
        while await most_at_once() < 3:
            pass


async def test_conc_1_holds_under_failure(connect, url, recorder):
    worker = connect(url, concurrency=3, max_attempts=1)

    async def fail(args):
        await recorder.hold(args)
        raise ValueError

    worker.register("fail", fail)
    worker.register("hold", recorder.hold)
    recorder.gate.set()
    await worker.start()
    await worker.perform_many([Job("fail")] * 20)
    await recorder.until(lambda: len(recorder.ended) == 20)
    recorder.gate.clear()
    await worker.perform_many([Job("hold")] * 10)
    await recorder.until(lambda: recorder.running == 3)
    recorder.gate.set()
    await recorder.until(lambda: len(recorder.ended) == 30)
    assert recorder.most_running == 3


async def test_conc_3_a_stuck_handler_costs_one_slot(connect, url, recorder):
    worker = connect(url, concurrency=2, grace="0s")
    worker.register("hold", recorder.hold)
    worker.register("note", recorder.note)
    await worker.start()
    await worker.perform(Job("hold"))
    await worker.perform_many([Job("note")] * 50)
    await recorder.until(lambda: len(recorder.ended) == 50)
    assert recorder.running == 1


async def test_conc_4_a_busy_worker_hoards_nothing(connect, sqlite_url, recorder):
    """Its fast jobs let it prefetch; then it is stuck, and another gets what it doesn't run."""
    busy = connect(sqlite_url, concurrency=2, grace="0s")
    busy.register("note", recorder.note)
    busy.register("hold", recorder.hold)
    await busy.start()
    await busy.perform_many([Job("note")] * 2000 + [Job("hold")] * 2 + [Job("note")] * 100)
    await recorder.until(lambda: recorder.running == 2 and len(recorder.ended) == 2000)
    idle = connect(sqlite_url)
    idle.register("note", recorder.note)
    await idle.start()
    await recorder.until(lambda: len(recorder.ended) == 2100)
    assert recorder.running == 2


async def test_a_def_handler_past_its_timeout_keeps_its_slot(connect, url, recorder, caplog):
    worker = connect(url, concurrency=1, grace="0s")
    release = threading.Event()
    log = Log()
    worker.observe(log)
    worker.register("block", lambda args: release.wait(DEADLINE), timeout=0.05, max_attempts=1)
    worker.register("note", recorder.note)
    await worker.start()
    await worker.perform(Job("block"))
    await worker.perform(Job("note"))
    await log.until("job_dead")
    assert "took longer than 0.05 s" in log.last("job_dead")
    assert "keeps its slot until it ends" in caplog.text
    assert recorder.started == []
    release.set()
    await recorder.until_started(1)


async def test_handlers_do_not_see_each_others_context(connect, url):
    from contextvars import ContextVar

    variable: ContextVar[str] = ContextVar("variable", default="clean")
    worker = connect(url, concurrency=1)
    seen = []
    done = asyncio.Event()

    @worker.handler("set")
    async def set_it(args):
        seen.append(variable.get())
        variable.set("dirty")
        if len(seen) == 5:
            done.set()

    await worker.start()
    await worker.perform_many([Job("set")] * 5)
    await asyncio.wait_for(done.wait(), DEADLINE)
    assert seen == ["clean"] * 5
