"""LIFE: the event loop is the application's, whatever it is and however it ends."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import textwrap
import time

import pytest
from lost_loops import check_that_a_closed_loop_holds_no_job, each_end_of_a_loop
from support import DEADLINE

from offload import BackendUnavailableError, Job

PROGRAM = textwrap.dedent(
    """
    import asyncio, gc, os, sys, offload

    gc.disable()
    worker = offload.connect(sys.argv[1])
    run = asyncio.run
    if sys.argv[2] == "uvloop":
        import uvloop
        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())

    @worker.handler("note")
    async def note(args):
        ran.set()

    async def work():
        global ran
        ran = asyncio.Event()
        async with worker:
            await worker.perform(offload.Job("note"))
            await asyncio.wait_for(ran.wait(), 10)

    def descriptors():
        return len(os.listdir("/proc/self/fd"))

    for _ in range(3):
        run(worker.perform(offload.Job("note", queue="other")))
    before = descriptors()
    for _ in range(60):
        run(worker.perform(offload.Job("note", queue="other")))
    print(descriptors() - before)
    run(work())
    run(work())
    print("ran")
    """
)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_loops_come_and_go_and_leave_nothing(broker, space, stranger, loop):
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    command = [sys.executable, "-c", PROGRAM, f"{broker.url}?namespace={space}", loop]
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=2 * DEADLINE, check=False
    )
    assert done.stdout == "0\nran\n", done.stderr
    assert "Traceback" not in done.stderr
    await stranger.until("q.other", ready=63)


@each_end_of_a_loop
def test_a_loop_that_is_closed_without_a_stop_holds_no_job(broker, space, is_wound_up):
    check_that_a_closed_loop_holds_no_job(
        f"{broker.url}?namespace={space}", is_wound_up=is_wound_up
    )


async def test_a_perform_after_the_loop_was_blocked_is_stored_at_once(make, stranger):
    """The broker ended the connection meanwhile, and nothing was sent on it since."""
    worker = make(lease="2s")
    await worker.perform(Job("note"))
    time.sleep(3.5)
    await worker.perform(Job("note"))
    await stranger.until("q.default", ready=2)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
async def test_a_forked_child_doesn_t_keep_a_dead_worker_s_jobs(make, broker, space, recorder):
    """The child of a handler outlives its parent, whose jobs run elsewhere all the same."""
    program = textwrap.dedent(
        """
        import os, sys, time, offload

        worker = offload.connect(sys.argv[1])

        @worker.handler("fork")
        async def fork(args):
            if os.fork() == 0:
                os.close(0), os.close(1)
                time.sleep(60)
                os._exit(0)
            os.kill(os.getpid(), 9)

        offload.run(worker)
        """
    )
    survivor = make()
    survivor.register("fork", recorder.note)
    await survivor.perform(Job("fork"))
    url = f"{broker.url}?namespace={space}"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, url, start_new_session=True
    )
    try:
        await process.wait()
        began = time.monotonic()
        await survivor.start()
        await recorder.until_started(1)
        assert time.monotonic() - began < 4.0
        assert recorder.started[0].attempt == 2
    finally:
        os.killpg(process.pid, 9)  # the child


@pytest.mark.skipif(
    "uvloop" in os.environ.get("OFFLOAD_TEST_LOOP", ""),
    reason="the transports of uvloop can't be made to fail by a test",
)
async def test_what_a_transport_raises_is_a_lost_connection(make, monkeypatch, stranger):
    """As Python 3.12 and 3.13 do, from one that was cut under load."""
    worker = make()
    await worker.perform(Job("note"))
    transport = next(
        each
        for each in gc.get_objects()
        if isinstance(each, asyncio.Transport)
        and not each.is_closing()
        and getattr(each.get_protocol(), "frame_max", None)
    )

    def write(data):
        raise AttributeError("'NoneType' object has no attribute 'send'")

    monkeypatch.setattr(transport, "write", write)
    with pytest.raises(BackendUnavailableError, match="AttributeError"):
        await worker.perform(Job("note"))
    await worker.perform(Job("note"))
    await stranger.until("q.default", ready=2)
