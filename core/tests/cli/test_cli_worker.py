"""`offload worker`, as a process of its own."""

from __future__ import annotations

import json
import signal
import sys
import textwrap
from datetime import UTC, datetime

import pytest

import offload

APPLICATION = """
    import asyncio, os, signal, time
    import offload

    worker = offload.connect()

    @worker.handler("quick")
    async def quick(args):
        pass

    @worker.handler("gate")
    async def gate(args):
        print("begun", flush=True)
        while not os.path.exists(args["until"]):
            await asyncio.sleep(0.01)

    @worker.handler("stop_now")
    async def stop_now(args):
        await asyncio.sleep(0.05)  # for the worker to take more ahead
        os.kill(os.getpid(), signal.SIGTERM)

    @worker.handler("fail", max_attempts=1)
    def fail(args):
        raise ValueError("failed on purpose")
"""

NEVER = {"until": "/there/is/no/such/file"}


@pytest.fixture
def application(tmp_path):
    """A module of a user's, `app`."""

    def write(code=APPLICATION, name="app"):
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(code))

    return write


@pytest.fixture
def perform(sqlite_url):
    """Perform jobs on the durable backend; returns their ids."""

    def perform(*jobs):
        worker = offload.connect(sqlite_url).sync
        try:
            return worker.perform_many(jobs)
        finally:
            worker.stop()

    return perform


def test_sigterm_lets_the_running_job_end(
    start, application, perform, sqlite_url, counts, tmp_path
):
    application()
    until = tmp_path / "go on"
    perform(offload.Job("gate", {"until": str(until)}))
    program = start("worker", "app:worker", OFFLOAD_URL=sqlite_url)
    program.until_line("begun")

    program.signal(signal.SIGTERM)
    assert not program.ended(timeout=0.3)
    until.touch()

    assert program.result() == 0
    first, *_, last = program.out.splitlines()
    assert first.startswith("Running")
    assert sqlite_url in first
    assert "Ctrl-C or SIGTERM" in first
    assert "1 finished, 0 were cut short" in last
    assert "worker started" in program.err
    assert counts() == {}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
def test_a_second_signal_ends_it_at_once(start, application, perform, sqlite_url, counts, number):
    application()
    perform(offload.Job("gate", NEVER))
    program = start("worker", "app:worker", OFFLOAD_URL=sqlite_url)
    program.until_line("begun")

    program.signal(number)
    while not program.ended(timeout=0.05):
        program.signal(number)

    assert program.result() == -number
    assert "Stopped" not in program.out
    (count,) = counts().values()
    assert count in ({"waiting": 1}, {"running": 1})


def test_grace_that_runs_out_is_exit_code_3(start, application, perform, sqlite_url, counts):
    application()
    (job_id,) = perform(offload.Job("gate", NEVER))
    program = start("worker", "app:worker", "--url", f"{sqlite_url}?grace=100ms")
    program.until_line("begun")

    program.signal(signal.SIGTERM)

    assert program.result() == 3
    assert "1 were cut short and returned" in program.out
    assert program.out.endswith(f"They run again: {job_id}\n")
    assert counts() == {"default": {"waiting": 1}}


def test_what_had_not_begun_is_no_reason_for_exit_code_3(
    start, application, perform, sqlite_url, counts
):
    application()
    jobs = [offload.Job("quick")] * 500
    perform(*jobs, offload.Job("stop_now"), *jobs)

    program = start("worker", "app:worker", "--url", f"{sqlite_url}?concurrency=1")

    assert program.result() == 0
    assert "0 were cut short" in program.out
    assert ", 0 given back" not in program.out, "nothing was taken ahead: this proves nothing"
    assert counts()["default"]["waiting"] > 0


def test_jobs_lost_with_the_process_are_exit_code_3(start, application):
    application(
        APPLICATION
        + """
    class Later:
        @offload.hookimpl
        def worker_started(self, worker):
            self.task = asyncio.ensure_future(self.perform())

        async def perform(self):
            await worker.perform_in(offload.Job("quick"), 3600)
            print("performed", flush=True)

    worker.observe(Later())
    """
    )
    program = start("worker", "app:worker", OFFLOAD_URL="simple://")
    program.until_line("performed")

    program.signal(signal.SIGTERM)

    assert program.result() == 3
    assert "1 lost" in program.out


def test_logs_as_json(start, application, perform, sqlite_url):
    application()
    (job_id,) = perform(offload.Job("fail"))
    program = start(
        "worker", "app:worker", "--url", sqlite_url, "--log-format", "json", TZ="Asia/Tokyo"
    )
    program.until_line("dead letter")

    program.signal(signal.SIGTERM)

    assert program.result() == 0
    records = [json.loads(line) for line in program.err.splitlines()]
    assert [record["level"] for record in records] == ["INFO", "ERROR", "INFO"]
    assert [record["logger"] for record in records] == ["offload", "offload.job", "offload"]
    for record in records:
        written = datetime.fromisoformat(record["time"])
        assert abs((datetime.now(UTC) - written).total_seconds()) < 60
    assert job_id in records[1]["message"]


def test_log_level(start, application, perform, sqlite_url):
    application()
    perform(offload.Job("fail"))
    program = start("worker", "app:worker", "--url", sqlite_url, "--log-level", "warning")
    program.until_line("dead letter")

    program.signal(signal.SIGTERM)

    assert program.result() == 0
    assert "worker started" not in program.err


def test_the_url_given_here_wins(start, application, sqlite_url, perform):
    application('import offload\nworker = offload.connect("amqp://not-installed")')
    program = start("worker", "app:worker", "--url", sqlite_url)
    program.until_line("Running")

    program.signal(signal.SIGINT)

    assert program.result() == 0


def test_a_dotted_attribute(start, application, sqlite_url):
    application("import offload\nclass jobs:\n    class inner:\n        worker = offload.connect()")
    program = start("worker", "app:jobs.inner.worker", OFFLOAD_URL=sqlite_url)
    program.until_line("Running")

    program.signal(signal.SIGTERM)

    assert program.result() == 0


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("app", "is not of the form MODULE:WORKER"),
        ("app:", "is not of the form MODULE:WORKER"),
        (":worker", "is not of the form MODULE:WORKER"),
        ("../app:worker", "is not of the form MODULE:WORKER"),
        ("no_such:worker", "module 'no_such' is not found"),
        ("no_such.sub:worker", "module 'no_such.sub' is not found: there is no 'no_such'"),
        ("app.py:worker", "module 'app.py' is not found"),
        ("app:wroker", "module 'app' has no attribute 'wroker'; its workers: worker"),
        ("app:worker.no", "module 'app' has no attribute 'worker.no'"),
        ("app:quick", "app:quick is of type function, not a Worker"),
    ],
)
def test_what_names_no_worker(run, application, tmp_path, monkeypatch, sqlite_url, path, message):
    application()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "app", raising=False)

    told = run("worker", path, env={"OFFLOAD_URL": sqlite_url})

    assert told.exit_code == 2
    assert message in told.stderr


def test_what_the_module_cannot_import_is_a_traceback(start, application):
    application("import there_is_no_such_module")

    program = start("worker", "app:worker")

    assert program.result() == 1
    assert "Traceback" in program.err
    assert 'app.py", line 1' in program.err
    assert "No module named 'there_is_no_such_module'" in program.err


def test_a_backend_that_is_away_is_exit_code_1(start, application):
    application()

    program = start("worker", "app:worker", OFFLOAD_URL="sqlite:////no/such/folder/jobs.db")

    assert program.result() == 1
    assert "Error: /no/such/folder/jobs.db can't be opened" in program.err
    assert "Traceback" not in program.err
    assert program.out == ""


def test_no_url_at_all_is_exit_code_2(start, application):
    application()

    program = start("worker", "app:worker")

    assert program.result() == 2
    assert program.err == ("Error: no config string: pass one to connect(), or set OFFLOAD_URL\n")


def test_a_password_is_shown_nowhere(start, application, distribution):
    canary = "canary-in-the-password"
    application()
    distribution(
        "vault",
        "vault",
        """
        import offload, offload_simple
        from offload.config import parse_address, read_config
        from offload_simple.driver import SimpleDriver

        def make(config):
            return SimpleDriver(read_config(parse_address("simple://"), ()))

        @offload.hookimpl
        def offload_adapter(scheme):
            simple = offload_simple.ADAPTER
            return offload.Adapter(claims=simple.claims, limits=simple.limits, make=make)
        """,
    )
    url = f"vault://user:{canary}@host"
    program = start("worker", "app:worker", "--url", url, "--log-level", "debug")
    program.until_line("Running")

    program.signal(signal.SIGTERM)

    assert program.result() == 0
    assert "vault://user:***@host" in program.out
    assert canary not in program.out + program.err
