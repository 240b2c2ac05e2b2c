"""Programs as users write them, each a process: forks, pre-forking servers, exits."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from support import DEADLINE

import offload
from offload_conformance.authors import free_port

if not hasattr(os, "fork"):
    pytest.skip("no fork here", allow_module_level=True)

HEADER = """
import asyncio, atexit, multiprocessing, os, pathlib, sys, threading, time
import offload

RAN = pathlib.Path("ran")
worker = offload.connect(os.environ["URL"])

def note(args):
    # One write of a short line is never torn by another process's.
    with RAN.open("a") as file:
        file.write(f"{args['number']}\\n")

def job(handler, number):
    return offload.Job(handler, {"number": number})

worker.register("note", note)
fork = multiprocessing.get_context("fork")

def until_ran(count):
    deadline = time.monotonic() + 20
    while not RAN.exists() or len(RAN.read_text().split()) < count:
        if time.monotonic() > deadline:
            sys.exit(f"only these ran: {RAN.read_text() if RAN.exists() else ''}")
        time.sleep(0.01)

def join(*children):
    for child in children:
        child.join(20)
        if child.exitcode != 0:
            if child.is_alive():
                child.kill()
            sys.exit(f"a child ended with {child.exitcode}")
"""


@pytest.fixture(params=["sqlite", "redis"])
def url(request, tmp_path):
    """A backend that processes share."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/jobs.db"
        return
    port = free_port()
    server = subprocess.Popen(
        ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(tmp_path)],
        stdout=subprocess.DEVNULL,
    )
    try:
        until_listening(port, server)
        yield f"redis://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(DEADLINE)


def until_listening(port: int, server: subprocess.Popen) -> None:
    deadline = time.monotonic() + DEADLINE
    while server.poll() is None and time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise AssertionError("the server doesn't listen")


def environment(url: str) -> dict[str, str]:
    return {**os.environ, "URL": url, "PYTHONUNBUFFERED": "1"}


def run(tmp_path: Path, url: str, program: str) -> subprocess.CompletedProcess:
    """Run a program to its end; it has the header's names."""
    (tmp_path / "app.py").write_text(HEADER + program)
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "app.py"],
        cwd=tmp_path,
        env=environment(url),
        capture_output=True,
        text=True,
        timeout=3 * DEADLINE,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done


def ran(tmp_path: Path) -> list[str]:
    return sorted((tmp_path / "ran").read_text().split())


def left(url: str) -> dict[str, int]:
    """How many jobs are still there, by what they are."""
    worker = offload.connect(url)
    counts = worker.sync.counts().get("default", offload.QueueCounts())
    worker.sync.stop()
    return {"waiting": counts.waiting, "running": counts.running, "dead": counts.dead}


NOTHING = {"waiting": 0, "running": 0, "dead": 0}


def test_a_fork_of_a_process_that_performed_performs(tmp_path, url):
    run(
        tmp_path,
        url,
        """
worker.sync.perform(job("note", 1))

def child():
    worker.sync.perform(job("note", 2))
    asyncio.run(worker.perform(job("note", 3)))

process = fork.Process(target=child)
process.start()
worker.sync.perform(job("note", 4))
join(process)
worker.sync.start()
until_ran(4)
worker.sync.stop()
""",
    )
    assert ran(tmp_path) == ["1", "2", "3", "4"]
    assert left(url) == NOTHING


def test_a_fork_of_a_running_worker_is_not_running_and_leaves_the_parent_alone(tmp_path, url):
    run(
        tmp_path,
        url,
        """
worker.sync.start()

def child():
    assert worker.state is offload.State.NEW, worker.state
    worker.sync.perform(job("note", 1))
    worker.sync.stop()

process = fork.Process(target=child)
process.start()
join(process)
assert worker.state is offload.State.RUNNING
worker.sync.perform(job("note", 2))
until_ran(2)
worker.sync.stop()
""",
    )
    assert ran(tmp_path) == ["1", "2"]
    assert left(url) == NOTHING


def test_children_that_each_start_the_worker_share_the_jobs(tmp_path, url):
    """As Celery's pool does: the parent performs, and its forks run."""
    run(
        tmp_path,
        url,
        """
worker.sync.perform_many([job("note", number) for number in range(20)])

def child():
    worker.sync.start()
    until_ran(40)
    worker.sync.stop()

children = [fork.Process(target=child) for _ in range(2)]
for process in children:
    process.start()
for number in range(20, 40):
    worker.sync.perform(job("note", number))
join(*children)
""",
    )
    assert ran(tmp_path) == sorted(str(number) for number in range(40))
    assert left(url) == NOTHING


def test_a_handler_that_forks(tmp_path, url):
    run(
        tmp_path,
        url,
        """
def parent(args):
    def child():
        worker.sync.perform(job("note", 1))
    process = fork.Process(target=child)
    process.start()
    join(process)
    note({"number": 0})

worker.register("parent", parent)
worker.sync.start()
worker.sync.perform(offload.Job("parent"))
until_ran(2)
worker.sync.stop()
""",
    )
    assert ran(tmp_path) == ["0", "1"]
    assert left(url) == NOTHING


def test_an_exit_by_atexit_stops_the_worker(tmp_path, url):
    """As Flask applications do it: what runs at exit is finished, and not run again."""
    run(
        tmp_path,
        url,
        """
begun = threading.Event()

def slow(args):
    begun.set()
    time.sleep(0.3)  # still runs when the exit begins
    note(args)

worker.register("slow", slow)
worker.sync.start()
atexit.register(worker.sync.stop)
worker.sync.perform(job("slow", 1))
assert begun.wait(20)
""",
    )
    assert ran(tmp_path) == ["1"]
    assert left(url) == NOTHING


def test_an_exit_without_a_stop_drains_and_says_so(tmp_path, url):
    done = run(
        tmp_path,
        url,
        """
worker.sync.start()
worker.sync.perform(job("note", 1))
until_ran(1)
""",
    )
    assert "was not stopped" in done.stderr
    assert left(url) == NOTHING


def test_gunicorn_with_preload_performs_in_each_worker(tmp_path, url):
    (tmp_path / "app.py").write_text(
        HEADER
        + """
worker.sync.perform(job("note", 0))  # so the connection is older than the forks

def app(environ, start_response):
    worker.sync.perform(job("note", os.getpid()))
    asyncio.run(worker.perform(job("note", os.getpid())))
    start_response("200 OK", [])
    return [str(os.getpid()).encode()]
"""
    )
    port = free_port()
    options = ["--preload", "--workers", "2", "--bind", f"127.0.0.1:{port}"]
    with serving(tmp_path, url, ["gunicorn", *options, "app:app"], port) as server:
        answered: set[bytes] = set()
        asked = 0
        deadline = time.monotonic() + DEADLINE
        while len(answered) < 2 and time.monotonic() < deadline:
            answered.add(fetch(port))
            asked += 1
        server.send_signal(signal.SIGTERM)
        assert server.wait(DEADLINE) == 0
    assert len(answered) == 2
    assert left(url) == {**NOTHING, "waiting": 1 + 2 * asked}


def test_uvicorn_on_uvloop_with_a_lifespan(tmp_path, url):
    (tmp_path / "app.py").write_text(
        HEADER
        + """
from offload.asgi import lifespan
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

async def perform(request):
    await worker.perform(job("note", 1))
    return PlainTextResponse(type(asyncio.get_running_loop()).__module__)

app = Starlette(routes=[Route("/", perform)], lifespan=lifespan(worker))
"""
    )
    port = free_port()
    options = ["--loop", "uvloop", "--port", str(port)]
    with serving(tmp_path, url, ["uvicorn", *options, "app:app"], port) as server:
        assert fetch(port) == b"uvloop"
        deadline = time.monotonic() + DEADLINE
        while not (tmp_path / "ran").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        server.send_signal(signal.SIGTERM)
        server.wait(DEADLINE)
    assert ran(tmp_path) == ["1"]
    assert left(url) == NOTHING


class serving:  # noqa: N801  (used as a function)
    """A web server that listens; it is killed if it hasn't ended by itself."""

    def __init__(self, tmp_path: Path, url: str, command: list[str], port: int) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-m", *command], cwd=tmp_path, env=environment(url)
        )
        self._port = port

    def __enter__(self) -> subprocess.Popen:
        until_listening(self._port, self._server)
        return self._server

    def __exit__(self, *_: object) -> None:
        if self._server.poll() is None:
            self._server.kill()
            self._server.wait(DEADLINE)


def fetch(port: int) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=DEADLINE) as answer:
        body: bytes = answer.read()
        return body
