"""`offload perform` and `offload queues`."""

from __future__ import annotations

import asyncio
import json
import threading
from datetime import UTC, datetime, timedelta

import pytest

import offload


async def test_a_handler_gets_what_was_given(start, sqlite_url, connect):
    program = start("perform", sqlite_url, "greet", "--args", '{"name": "Ada", "n": [1, 2.5]}')
    assert program.result() == 0
    worker = connect(sqlite_url)
    arrived = asyncio.get_running_loop().create_future()

    @worker.handler("greet")
    async def greet(args):
        arrived.set_result((args, offload.current_job().id))

    async with worker, asyncio.timeout(10):
        assert await arrived == ({"name": "Ada", "n": [1, 2.5]}, program.out.strip())


def test_into_a_queue(run, sqlite_url, counts):
    before = set(threading.enumerate())  # threads of other tests may still be at work
    told = run("perform", sqlite_url, "greet", "--queue", "mail")

    new = set(threading.enumerate()) - before
    assert not [thread for thread in new if "offload" in thread.name]

    assert told.exit_code == 0
    assert len(told.stdout.strip()) == 32
    assert counts() == {"mail": {"waiting": 1}}


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        (["--in", "1h"], {"scheduled": 1}),
        (["--in", "0s"], {"waiting": 1}),
        (["--at", (datetime.now(UTC) + timedelta(hours=1)).isoformat()], {"scheduled": 1}),
        (
            ["--at", f"{datetime.now(UTC) + timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}"],
            {"scheduled": 1},
        ),
        # Two hours ahead by the clock on the wall, but an hour ago where that clock hangs.
        (
            ["--at", f"{datetime.now(UTC) + timedelta(hours=2):%Y-%m-%dT%H:%M:%S}+03:00"],
            {"waiting": 1},
        ),
    ],
    ids=["in", "in no time", "at with an offset", "at Z", "at, past in its zone"],
)
def test_later(run, sqlite_url, counts, when, expected):
    assert run("perform", sqlite_url, "greet", *when).exit_code == 0

    assert counts() == {"default": expected}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--args", "{"], "not JSON"),
        (["--args", "[" * 100_000], "not JSON"),
        (["--args", "[1]"], "must be a JSON object"),
        (["--args", '{"a": NaN}'], "args.a: a float must be finite"),
        (["--in", "5x"], "500ms, 30s, 5m, 1h or 2d"),
        (["--at", "noon"], "not a time of ISO 8601"),
        (["--at", "2027-01-01T09:30:00"], "it has no zone"),
        (["--in", "5s", "--at", "2027-01-01T09:30:00Z"], "exclude each other"),
        (["--queue", "no good"], "queue 'no good'"),
        (["--in", "99999d"], "can be scheduled up to"),
    ],
)
def test_what_is_wrong_is_refused_and_nothing_is_enqueued(run, sqlite_url, counts, wrong, message):
    told = run("perform", sqlite_url, "greet", *wrong)

    assert told.exit_code == 2
    assert message in told.stderr
    assert told.stdout == ""
    assert counts() == {}


def test_where_no_other_process_could_run_it_the_core_says_so(run):
    told = run("perform", "simple://", "greet")

    assert told.exit_code == 2
    assert told.stderr == "Error: handler 'greet' is not registered; registered: none\n"


@pytest.mark.usefixtures("no_adapters")
def test_an_adapter_that_is_not_installed_comes_with_the_command(run):
    told = run("perform", "amqp://host", "greet")

    assert told.exit_code == 2
    assert "pip install 'offload[amqp]'" in told.stderr
    assert told.stderr.count("\n") == 1


def test_queues_counts_by_state(run, sqlite_url, doomed):
    doomed(3)
    for arguments in (["a"], ["a"], ["b", "--in", "1h"]):
        run("perform", sqlite_url, "greet", "--queue", *arguments)

    told = run("queues", sqlite_url, "--json")

    assert json.loads(told.stdout) == {
        "a": {"waiting": 2, "scheduled": 0, "running": 0, "dead": 0},
        "b": {"waiting": 0, "scheduled": 1, "running": 0, "dead": 0},
        "default": {"waiting": 0, "scheduled": 0, "running": 0, "dead": 3},
    }
    table = [line.split() for line in run("queues", sqlite_url).stdout.splitlines()]
    assert table == [
        ["queue", "waiting", "scheduled", "running", "dead"],
        ["a", "2", "0", "0", "0"],
        ["b", "0", "1", "0", "0"],
        ["default", "0", "0", "0", "3"],
    ]


COUNTS_SOME = """
    import offload

    OPTIONS = ()

    class Driver:
        def __init__(self, config):
            pass

        async def open(self):
            pass

        async def counts(self):
            counts = offload.QueueCounts(waiting=1200, scheduled=None, running=None, dead=3)
            return {"a": counts, "b": offload.QueueCounts(waiting=1)}

        async def enqueue(self, entries):
            raise AssertionError("never called")

        subscribe = enqueue

        async def close(self):
            return ()
"""


def test_queues_shows_what_the_backend_can_t_tell(run, driver):
    driver("tallying", COUNTS_SOME)

    lines = run("queues", "tallying://host").stdout.splitlines()

    assert [line.split() for line in lines[:3]] == [
        ["queue", "waiting", "scheduled", "running", "dead"],
        ["a", "1,200", "?", "?", "3"],
        ["b", "1", "0", "0", "0"],
    ]
    assert lines[3:] == ["?: this backend can't tell"]
    assert json.loads(run("queues", "tallying://host", "--json").stdout) == {
        "a": {"waiting": 1200, "scheduled": None, "running": None, "dead": 3},
        "b": {"waiting": 1, "scheduled": 0, "running": 0, "dead": 0},
    }


def test_queues_without_any(run, empty):
    assert run("queues", empty).stdout == "No queue holds a job.\n"
    assert json.loads(run("queues", empty, "--json").stdout) == {}


def test_the_url_may_come_from_the_environment(run, sqlite_url):
    run("perform", sqlite_url, "greet")

    told = run("queues", "--json", env={"OFFLOAD_URL": sqlite_url})

    assert json.loads(told.stdout)["default"]["waiting"] == 1
    assert run("queues").exit_code == 2
