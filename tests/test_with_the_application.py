"""The worker with the application: ASGI lifespan, plain programs, and code without a loop."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from support import DEADLINE, Log

import offload
from offload import Job, State, UsageError

APP = """
import asyncio, json, os, sys
import offload
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

worker = offload.connect(os.environ["TEST_URL"])

def say(event):
    print(json.dumps(event), flush=True)

@worker.handler("slow")
async def slow(args):
    say("started")
    await asyncio.sleep(0.5)
    say("finished")

async def index(request):
    return PlainTextResponse(await worker.perform(offload.Job("slow")))

class Observer:
    @offload.hookimpl
    def worker_stopped(self, worker, report):
        say({"finished": report.finished})

worker.observe(Observer())
app = Starlette(
    routes=[Route("/", index)],
    lifespan=offload.asgi.lifespan(worker, worker_off=bool(os.environ.get("TEST_OFF"))),
)
"""


@asynccontextmanager
async def server(
    tmp_path: Path, **env: str
) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """A real uvicorn, and its address once it serves."""
    (tmp_path / "app.py").write_text(APP)
    read, write = os.pipe()
    launcher = textwrap.dedent(
        f"""
        import socket, os, uvicorn
        listener = socket.create_server(("127.0.0.1", 0))
        os.write({write}, str(listener.getsockname()[1]).encode() + b"\\n")
        config = uvicorn.Config("app:app", log_level="info", access_log=False)
        uvicorn.Server(config).run([listener])
        """
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        launcher,
        cwd=tmp_path,
        env={**os.environ, **env},
        pass_fds=[write],
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    os.close(write)
    with os.fdopen(read) as pipe:
        port = await asyncio.to_thread(pipe.readline)
    try:
        yield process, f"http://127.0.0.1:{port.strip()}"
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def test_the_worker_starts_before_the_app_serves_and_drains_after(tmp_path, url):
    async with server(tmp_path, TEST_URL=url) as (process, address):
        async with httpx.AsyncClient() as client:
            assert (await client.get(address)).status_code == 200
        assert process.stdout is not None
        first = await asyncio.wait_for(process.stdout.readline(), DEADLINE)
        assert json.loads(first) == "started"
        process.send_signal(signal.SIGTERM)
        out, err = await asyncio.wait_for(process.communicate(), DEADLINE)
    assert [json.loads(line) for line in out.splitlines()] == ["finished", {"finished": 1}]
    assert b"Application shutdown complete" in err
    # uvicorn hands the signal on to itself when it is done.
    assert process.returncode in (0, -signal.SIGTERM)


async def test_a_start_error_fails_the_boot(tmp_path):
    async with server(tmp_path, TEST_URL=f"sqlite:///{tmp_path}/none/jobs.db") as (process, _):
        _, err = await asyncio.wait_for(process.communicate(), DEADLINE)
    assert process.returncode == 3
    assert b"its folder must exist" in err
    assert b"Application startup failed" in err


async def test_worker_off_only_performs(tmp_path, sqlite_url, connect):
    async with server(tmp_path, TEST_URL=sqlite_url, TEST_OFF="1") as (process, address):
        async with httpx.AsyncClient() as client:
            job_id = (await client.get(address)).text
        process.send_signal(signal.SIGTERM)
        out, _ = await asyncio.wait_for(process.communicate(), DEADLINE)
    assert b"started" not in out
    assert (await connect(sqlite_url).counts())["default"].waiting == 1
    assert len(job_id) == 32


PROGRAM = """
import asyncio, json, os, sys, offload

worker = offload.connect(os.environ["TEST_URL"])

@worker.handler("slow")
async def slow(args):
    print("started", flush=True)
    await asyncio.sleep(args["seconds"])
    print("finished", flush=True)

async def main():
    await worker.perform(offload.Job("slow", {"seconds": float(os.environ["TEST_SECONDS"])}))
    mode = os.environ["TEST_MODE"]
    if mode == "returns":
        return
    if mode == "raises":
        raise ValueError("main failed")
    try:
        await asyncio.Event().wait()
    finally:
        print("main ended", flush=True)

report = offload.run(worker, main)
print(report, flush=True)
"""


def program(url: str, mode: str, seconds: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "TEST_URL": url, "TEST_MODE": mode, "TEST_SECONDS": str(seconds)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_run_ends_when_main_does(url):
    out, err = program(url, "returns", 0.2).communicate(timeout=DEADLINE)
    assert out.splitlines()[-1].startswith("StopReport("), err


def test_run_raises_what_main_raises(url):
    process = program(url, "raises", 0)
    _, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 1
    assert "ValueError: main failed" in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_run_drains_on_a_signal(url, number):
    process = program(url, "waits", 0.5)
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=DEADLINE)
    assert out.splitlines()[:2] == ["main ended", "finished"], err
    assert "finished=1" in out
    assert process.returncode == 0


def test_run_ends_at_once_on_a_second_signal(url):
    process = program(url, "waits", 3600)
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "main ended\n"
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=DEADLINE)
    assert process.returncode == -signal.SIGINT


def test_run_raises_a_start_error(tmp_path):
    worker = offload.connect(f"sqlite:///{tmp_path}/none/jobs.db")
    with pytest.raises(offload.BackendUnavailableError):
        offload.run(worker)


def test_a_stuck_def_handler_does_not_keep_a_stopped_program_alive(tmp_path):
    code = """
        import threading, offload
        worker = offload.connect("simple://?grace=0s")
        started = threading.Event()

        @worker.handler("stuck")
        def stuck(args):
            started.set()
            threading.Event().wait()

        async def main():
            import asyncio
            await worker.perform(offload.Job("stuck"))
            await asyncio.to_thread(started.wait)

        print(len(offload.run(worker, main).lost))
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=True,
    )
    assert done.stdout == "1\n"


# -- worker.sync ------------------------------------------------------------------------------


def test_sync_without_any_loop(url):
    before = set(threading.enumerate())  # handlers of other tests may still be at work
    worker = offload.connect(url)
    ran = threading.Event()

    @worker.handler("note")
    def note(args):
        ran.set()

    with worker.sync:
        job_id = worker.sync.perform(Job("note"))
        assert ran.wait(DEADLINE)
        assert len(worker.sync.perform_many([Job("note")] * 3)) == 3
        assert worker.sync.perform_in(Job("note"), 3600) != job_id
        worker.sync.perform_at(Job("note"), datetime(2020, 1, 1, tzinfo=UTC))
        assert worker.sync.counts()["default"].scheduled == 1
    assert worker.state is State.STOPPED
    new = set(threading.enumerate()) - before
    assert not [t for t in new if t.name.startswith("offload")]


def test_sync_from_many_threads(url):
    worker = offload.connect(url)
    worker.register("note", print)
    ids: list[str] = []

    def perform():
        ids.extend(worker.sync.perform(Job("note")) for _ in range(50))

    threads = [threading.Thread(target=perform) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert worker.sync.counts()["default"].waiting == 400
    worker.sync.stop()
    assert len(set(ids)) == 400


async def test_sync_from_a_def_handler(connect, url, recorder):
    worker = connect(url)
    worker.register("note", recorder.note)
    worker.register("chain", lambda args: worker.sync.perform(Job("note")) and None)
    await worker.start()
    await worker.perform(Job("chain"))
    await recorder.until_started(1)


async def test_sync_stop_from_a_def_handler(connect, url):
    worker = connect(url)
    log = Log()
    worker.observe(log)

    @worker.handler("stop")
    def stop(args):
        worker.sync.stop()

    await worker.start()
    await worker.perform(Job("stop"))
    await log.until("worker_stopped")
    assert worker.state is State.STOPPED


async def test_sync_on_the_workers_own_loop_is_refused(connect, url):
    worker = connect(url)
    worker.register("note", print)
    await worker.start()
    with pytest.raises(UsageError, match="use await"):
        worker.sync.perform(Job("note"))


def test_sync_raises_what_the_call_raises(url):
    worker = offload.connect(url)
    with pytest.raises(offload.InvalidJobError):
        worker.sync.perform(Job("not a name"))
    worker.sync.stop()
