"""How a process ends, and what its end must not cost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time

import pytest
from support import DEADLINE

import offload
from offload import Job

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def test_jobs_that_nobody_could_run_are_named_once(tmp_path):
    program = """
import asyncio, offload
worker = offload.connect("simple://")
worker.register("note", print)
for _ in range(3):
    asyncio.run(worker.perform(offload.Job("note")))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    (line,) = done.stderr.splitlines()
    assert "3 jobs on simple:// are lost with this process, in which no worker was started" in line


def test_a_signal_while_it_connects_ends_a_program_at_once(tmp_path):
    """The broker accepts the connection, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        (tmp_path / "program.py").write_text(
            f"import offload\noffload.run(offload.connect('redis://127.0.0.1:{port}?timeout=60s'))\n"
        )
        process = subprocess.Popen([sys.executable, "program.py"], cwd=tmp_path)
        connection, _ = silent.accept()
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        code = process.wait(DEADLINE)
        connection.close()
    assert code == 0
    assert time.monotonic() - began < 5


async def test_a_child_that_goes_on_does_not_keep_a_killed_worker_alive(tmp_path, sqlite_url):
    """A handler has forked; its process is killed; the job runs again when that is noticed."""
    (tmp_path / "program.py").write_text(
        textwrap.dedent(
            """
            import asyncio, os, subprocess, sys, time
            import offload

            worker = offload.connect(os.environ["TEST_URL"])

            @worker.handler("fork")
            def fork(args):
                if os.fork() == 0:
                    time.sleep(30)
                    os._exit(0)
                print("forked", flush=True)
                time.sleep(60)

            offload.run(worker)
            """
        )
    )
    performer = offload.connect(sqlite_url)
    await performer.perform(Job("fork"))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "program.py"),
        cwd=tmp_path,
        env={**os.environ, "TEST_URL": sqlite_url},
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(DEADLINE):
            assert await process.stdout.readline() == b"forked\n"
        os.kill(process.pid, signal.SIGKILL)
        again = asyncio.Event()
        worker = offload.connect(sqlite_url)

        @worker.handler("fork")
        async def fork(args):
            again.set()

        await worker.start()
        # Its lease lasts 30 s: only the pipe tells of its death sooner.
        async with asyncio.timeout(worker.limits.recovery.total_seconds() + 2):
            await again.wait()
        await worker.stop()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.communicate()  # to the end, or its pipe is left to the collector
        await performer.stop()
