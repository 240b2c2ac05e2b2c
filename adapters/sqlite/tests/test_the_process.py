"""The process and its event loop are the user's: forks, exits, other loops, descriptors."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import warnings
import weakref

import pytest
from support import DEADLINE

import offload
from offload import Job
from offload_sqlite.thread import StoreThread

uvloop = pytest.importorskip("uvloop") if sys.platform != "win32" else None


def run(script, *args, code=0):
    """Run a program as a user would; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", textwrap.dedent(script), *args],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == code, done.stderr
    return done


def rows(tmp_path, query):
    with contextlib.closing(sqlite3.connect(tmp_path / "jobs.db")) as connection:
        return connection.execute(query).fetchall()


def test_a_stop_at_the_exit_stores_the_verdicts(tmp_path, sqlite_url):
    """The way of Flask: a finished job doesn't run again."""
    run(
        """
        import atexit, sys, threading, offload
        worker = offload.connect(sys.argv[1])
        began, go = threading.Event(), threading.Event()
        def work(args):
            began.set()
            go.wait(20)
        worker.register("work", work)
        worker.sync.start()
        atexit.register(worker.sync.stop)
        atexit.register(go.set)  # called first: the job ends while the program does
        worker.sync.perform(offload.Job("work"))
        began.wait(20)
        """,
        sqlite_url,
    )
    assert rows(tmp_path, "SELECT count(*) FROM offload_job") == [(0,)]
    assert [path.name for path in tmp_path.iterdir()] == ["jobs.db"]


@pytest.mark.parametrize("loops", ["asyncio", "uvloop"])
def test_programs_of_many_loops_keep_no_descriptors(sqlite_url, loops):
    """With the collector off: nothing waits for it."""
    run(
        """
        import asyncio, gc, os, sys, threading, offload
        if sys.argv[2] == "uvloop":
            import uvloop
            asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
        gc.disable()
        worker = offload.connect(sys.argv[1])
        def count():
            return len(os.listdir("/proc/self/fd")), threading.active_count()
        asyncio.run(worker.perform(offload.Job("note")))
        before = count()
        for _ in range(60):
            asyncio.run(worker.perform(offload.Job("note")))
        after = count()
        assert after[0] <= before[0] + 2 and after[1] <= before[1], (before, after)
        asyncio.run(worker.stop())
        """,
        sqlite_url,
        loops,
    )


def test_a_worker_that_is_forgotten_leaves_nothing(sqlite_url):
    """Its connection is closed, not left to a warning; its thread ends."""

    async def use():
        await offload.connect(sqlite_url).perform(Job("note"))

    def threads():
        import threading

        return [t for t in threading.enumerate() if t.name == "offload-sqlite"]

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = len(threads())
        for _ in range(5):
            asyncio.run(use())
        gc.collect()
        for thread in threads()[before:]:
            thread.join(DEADLINE)
        assert len(threads()) == before


CHILD = """
import os, sys, time, offload
worker = offload.connect(sys.argv[1])

def fork(args):
    child = os.fork()
    if child == 0:
        os.setsid()
        os.close(1)  # what the test waits for is the parent's
        time.sleep(60)
        os._exit(0)
    print(child, flush=True)
    time.sleep(60)

worker.register("fork", fork)
offload.run(worker)
"""


async def test_a_child_that_outlives_its_parent_delays_no_recovery(sqlite_url, connect, recorder):
    performer = connect(sqlite_url)
    await performer.perform(Job("fork"))
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", CHILD, sqlite_url), stdout=subprocess.PIPE
    )
    assert parent.stdout is not None
    child = int(await asyncio.wait_for(parent.stdout.readline(), DEADLINE))
    try:
        parent.kill()
        await parent.wait()
        worker = connect(sqlite_url)
        worker.register("fork", recorder.note)
        await worker.start()
        async with asyncio.timeout(worker.limits.recovery.total_seconds()):
            await recorder.until_started(1)
        assert recorder.started[0].attempt == 2
        os.kill(child, 0)  # it does outlive it
    finally:
        os.kill(child, signal.SIGKILL)
        parent._transport.close()


def test_a_forked_child_leaves_the_worker_of_its_parent_alone(tmp_path, sqlite_url):
    """Neither its pipe, nor its session, nor its event loop, nor its connection."""
    run(
        """
        import asyncio, os, sys, offload
        from offload import BackendUnavailableError, Job

        async def main():
            worker = offload.connect(sys.argv[1])
            ran = asyncio.Event()

            @worker.handler("note")
            async def note(args):
                ran.set()

            await worker.start()
            driver, subscription = worker._driver, worker._dispatcher.subscription
            child = os.fork()
            if child == 0:
                # As its own code would: what it calls here says no, and hangs nowhere.
                code = 1
                try:
                    refused = 0
                    for call in (driver.counts(), subscription.fetch(1), subscription.settle([])):
                        try:
                            call.send(None)
                        except BackendUnavailableError:
                            refused += 1
                    for call in (subscription.close(), driver.close()):
                        try:
                            call.send(None)
                        except StopIteration:
                            refused += 1
                    code = 0 if refused == 5 else 1
                finally:
                    os._exit(code)
            _, status = os.waitpid(child, 0)
            assert status == 0, status
            assert len([f for f in os.listdir(sys.argv[2]) if "-worker-" in f]) == 1
            other = offload.connect(sys.argv[1])
            await other.perform(Job("note"))
            await asyncio.wait_for(ran.wait(), 20)
            await other.stop()
            await worker.stop()

        asyncio.run(main())
        """,
        sqlite_url,
        str(tmp_path),
    )


def test_a_loop_that_was_closed_without_a_stop(tmp_path, sqlite_url):
    worker = offload.connect(sqlite_url)
    ran = []

    @worker.handler("note")
    async def note(args):
        ran.append(offload.current_job().id)

    async def begin_and_vanish():
        await worker.start()
        return await worker.perform(Job("later"))

    async def go_on():
        await worker.start()
        job_id = await worker.perform(Job("note"))
        async with asyncio.timeout(DEADLINE):
            while job_id not in ran:
                await asyncio.sleep(0.01)
        await worker.stop()

    for runner in (asyncio.run, uvloop.run, asyncio.run):
        runner(begin_and_vanish())
    uvloop.run(go_on())
    assert [path.name for path in tmp_path.iterdir()] == ["jobs.db"]


def test_a_bell_wakes_a_worker_under_uvloop(sqlite_url):
    """Fifty jobs, one after the other, from another connection: polling would take a minute."""

    async def main():
        worker, performer = offload.connect(sqlite_url), offload.connect(sqlite_url)
        ran = asyncio.Event()

        @worker.handler("note")
        async def note(args):
            ran.set()

        await worker.start()
        async with asyncio.timeout(DEADLINE):
            for _ in range(50):
                ran.clear()
                await performer.perform(Job("note"))
                await ran.wait()
        await performer.stop()
        await worker.stop()

    uvloop.run(main())


async def test_the_thread_keeps_nothing_alive_when_idle():
    class Big:
        def use(self):
            return self

    thread, big = StoreThread(), Big()
    gone = weakref.ref(big)
    gc.disable()
    try:
        await thread.call(big.use)
        with pytest.raises(ZeroDivisionError):
            await thread.call(lambda kept: 1 / 0 if kept else 0, big)
        del big
        await thread.call(int)
        assert gone() is None
    finally:
        gc.enable()
        thread.end(wait=True)


async def test_a_call_after_the_end_is_refused_not_left_waiting():
    thread = StoreThread()
    thread.end(wait=True)
    with pytest.raises(offload.BackendUnavailableError):
        await thread.call(int)


async def test_an_error_that_no_future_takes():
    thread = StoreThread()

    def stop_iteration():
        raise StopIteration

    with pytest.raises(RuntimeError):
        await asyncio.wait_for(thread.call(stop_iteration), DEADLINE)
    thread.end(wait=True)
