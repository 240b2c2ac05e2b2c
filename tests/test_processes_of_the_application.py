"""Forks, servers and exits: real programs, as an application would have them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import httpx
import pytest
from support import DEADLINE

import offload
from offload import Job

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


SAY = """
import json, os

def say(what):
    os.write(1, (json.dumps(what) + "\\n").encode())  # in one piece, from any thread
"""


def run_program(text: str, tmp_path: Path, url: str, *, timeout: float = DEADLINE):
    """Run a program to its end; its output is a line of JSON for each thing that it tells."""
    file = tmp_path / "program.py"
    file.write_text(SAY + textwrap.dedent(text))
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", str(file)],
        env={**os.environ, "TEST_URL": url},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith(("{", "["))]
    return done, told


FORKS = """
    import json, os, sys
    import multiprocessing
    import offload
    from offload import Job

    context = multiprocessing.get_context("fork")
    worker = offload.connect(os.environ["TEST_URL"])

    @worker.handler("note")
    def note(args):
        say({"ran": args["from"], "in": os.getpid()})

    def child(name):
        worker.sync.perform(Job("note", {"from": name}))
        say({"performed": name})

    if __name__ == "__main__":
        %s
"""


@pytest.mark.parametrize(
    ("before", "jobs"),
    [
        ('worker.sync.perform(Job("note", {"from": "parent"}))', 4),
        ("worker.sync.start()", 3),
        ("import asyncio; asyncio.run(worker.perform(Job('note', {'from': 'parent'})))", 4),
        ("pass", 3),
    ],
    ids=["performed", "started", "performed on a loop", "untouched"],
)
def test_forked_children_perform_each_on_a_connection_of_its_own(
    tmp_path, sqlite_url, before, jobs
):
    """As with gunicorn's --preload, or multiprocessing: the parent used the worker before."""
    done, told = run_program(
        FORKS
        % f"""{before}
        children = [context.Process(target=child, args=(f"child {{n}}",)) for n in range(3)]
        for process in children: process.start()
        for process in children: process.join({DEADLINE / 2})
        say({{"codes": [process.exitcode for process in children]}})
        worker.sync.start()if worker.state.value != "running" else None
        import time
        deadline = time.monotonic() + {DEADLINE / 2}
        while sum(c.waiting + (c.running or 0) for c in worker.sync.counts().values()):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        worker.sync.stop()
        """,
        tmp_path,
        sqlite_url,
    )
    assert done.returncode == 0, done.stderr
    assert {"codes": [0, 0, 0]} in told
    assert sum("ran" in each for each in told) == jobs


def test_a_handler_that_forks(tmp_path, sqlite_url):
    """The child performs, and the parent's lease and connections stay the parent's."""
    done, told = run_program(
        """
        import asyncio, json, multiprocessing, os
        import offload
        from offload import Job

        worker = offload.connect(os.environ["TEST_URL"])
        ended = asyncio.Event()

        def child():
            worker.sync.perform(Job("note", {"from": "child"}))

        @worker.handler("fork")
        def fork(args):
            process = multiprocessing.get_context("fork").Process(target=child)
            process.start()
            process.join()
            say({"code": process.exitcode})

        @worker.handler("note")
        async def note(args):
            say({"ran": args["from"]})
            ended.set()

        async def main():
            await worker.perform(Job("fork"))
            await ended.wait()

        report = offload.run(worker, main)
        say({"lost": report.lost, "returned": report.returned})
        """,
        tmp_path,
        sqlite_url,
    )
    assert done.returncode == 0, done.stderr
    assert told == [{"code": 0}, {"ran": "child"}, {"lost": [], "returned": []}]


def test_every_child_runs_a_worker_of_its_own(tmp_path, sqlite_url):
    """As Celery's prefork pool: the parent performs, and its children start the worker."""
    done, told = run_program(
        FORKS
        % """worker.sync.perform_many([Job("note", {"from": n}) for n in range(40)])
        def serve():
            worker.sync.start()
            import time
            while sum(c.waiting + (c.running or 0) for c in worker.sync.counts().values()):
                time.sleep(0.01)
            worker.sync.stop()
        children = [context.Process(target=serve) for n in range(3)]
        for process in children: process.start()
        for process in children: process.join(20)
        say({"codes": [process.exitcode for process in children]})
        """,
        tmp_path,
        sqlite_url,
    )
    assert done.returncode == 0, done.stderr
    assert {"codes": [0, 0, 0]} in told
    assert sorted(each["ran"] for each in told if "ran" in each) == list(range(40))


def test_a_process_that_ends_with_a_running_worker_drains_it(tmp_path, url):
    done, told = run_program(
        """
        import json, os, time
        import offload
        from offload import Job

        worker = offload.connect(os.environ["TEST_URL"])

        @worker.handler("slow")
        def slow(args):
            say({"began": 1})
            time.sleep(0.3)
            say({"ended": 1})

        worker.sync.start()
        worker.sync.perform(Job("slow"))
        while not worker.sync.counts()["default"].running:
            time.sleep(0.001)
        """,
        tmp_path,
        url,
    )
    assert done.returncode == 0, done.stderr
    assert told == [{"began": 1}, {"ended": 1}]
    assert "was not stopped: it is stopped now" in done.stderr


def test_stop_at_exit(tmp_path, url):
    """The Flask way: `atexit.register(worker.sync.stop)`."""
    done, told = run_program(
        """
        import atexit, json, os
        import offload
        from offload import Job

        worker = offload.connect(os.environ["TEST_URL"])
        worker.register("note", lambda args: say({"ran": 1}))
        atexit.register(lambda: say({"lost": worker.sync.stop().lost}))
        worker.sync.start()
        worker.sync.perform(Job("note"))
        while worker.sync.counts():
            pass
        """,
        tmp_path,
        url,
    )
    assert done.returncode == 0, done.stderr
    assert told == [{"ran": 1}, {"lost": []}]
    assert "Traceback" not in done.stderr


def test_jobs_that_nobody_could_run_are_named_once(tmp_path):
    done, _ = run_program(
        """
        import asyncio, offload
        worker = offload.connect("simple://")
        worker.register("note", print)
        for _ in range(3):
            asyncio.run(worker.perform(offload.Job("note")))
        """,
        tmp_path,
        "simple://",
    )
    (line,) = done.stderr.splitlines()
    assert "3 jobs on simple:// are lost with this process, in which no worker was started" in line


APP = """
import os
import offload
from offload import Job

worker = offload.connect(os.environ["TEST_URL"])
worker.sync.perform(Job("note"))  # --preload: the master has used it before it forks

def app(environ, start_response):
    answer = f"{os.getpid()} {worker.sync.perform(Job('note'))}".encode()
    start_response("200 OK", [("Content-Length", str(len(answer)))])
    return [answer]
"""


@contextlib.contextmanager
def serving(command: list[str], tmp_path: Path, url: str):
    """Run a server on a free port, and end it by SIGTERM."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [part.replace("PORT", str(port)) for part in command]
    environment = {**os.environ, "TEST_URL": url}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *command], cwd=tmp_path, env=environment, stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + DEADLINE
        while True:
            with contextlib.suppress(httpx.TransportError):
                httpx.get(f"http://127.0.0.1:{port}/", timeout=10)
                break
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline
        yield port, process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(DEADLINE)


def test_gunicorn_preloads_a_worker_that_has_performed(tmp_path, sqlite_url):
    (tmp_path / "app.py").write_text(APP)
    command = ["-m", "gunicorn", "--preload", "-w", "2", "-b", "127.0.0.1:PORT", "app:app"]
    with serving(command, tmp_path, sqlite_url) as (port, _):
        answers = [httpx.get(f"http://127.0.0.1:{port}/", timeout=10).text for _ in range(30)]
    assert all(len(answer.split()) == 2 for answer in answers), answers
    counts = offload.connect(sqlite_url).sync.counts()["default"]
    assert counts.waiting == len(answers) + 2


ASGI = """
import json, os
import offload
from offload import Job
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

worker = offload.connect(os.environ["TEST_URL"])

@worker.handler("note")
async def note(args):
    import asyncio
    print("ran on", type(asyncio.get_running_loop()).__module__, flush=True)

async def index(request):
    return PlainTextResponse(await worker.perform(Job("note")))

app = Starlette(routes=[Route("/", index)], lifespan=offload.asgi.lifespan(worker))
"""


def test_uvicorn_with_uvloop(tmp_path, url):
    (tmp_path / "app.py").write_text(ASGI)
    command = ["-m", "uvicorn", "--loop", "uvloop", "--port", "PORT", "app:app"]
    with serving(command, tmp_path, url) as (port, process):
        for _ in range(5):
            assert len(httpx.get(f"http://127.0.0.1:{port}/", timeout=10).text) == 32
    log = (tmp_path / "log").read_text()
    assert process.returncode in (0, -signal.SIGTERM), log
    assert log.count("ran on uvloop") == 6
    assert "Traceback" not in log


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
        await process.wait()
        await performer.stop()
