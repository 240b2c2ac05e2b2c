"""What releases have left is kept in files that people can compare, and laid as if it were new."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from histories import Story

from offload_conformance.authors import free_port
from offload_conformance.checks import broken
from offload_conformance.golden_states import (
    GoldenState,
    LeftJob,
    LeftLetter,
    Manifest,
    made_portable,
    recorded,
)
from offload_sqlite.conformance import SqliteStates

NOW_MS = 1_796_000_000_000
JOB = LeftJob(
    id="01a2", tag="a", handler="act", queue="q", args={"payload": [1]}, attempt=2, due_in_ms=0
)
LETTER = LeftLetter(id="01a3", tag="b", handler="act", queue="q", args={}, attempts=1, error="no")
BOTH = Manifest([JOB], [LETTER])


def test_namespace_and_times_are_those_of_the_moment():
    text = f"ns-1:x 01a2 {NOW_MS - 1500} {NOW_MS + 20} 18446744073709551615 1000000000000"
    portable = made_portable(text, "ns-1", NOW_MS)
    assert portable == "<namespace>:x 01a2 <now-1500> <now+20> 18446744073709551615 1000000000000"
    again = GoldenState("1", portable, BOTH).at("other", NOW_MS + 5)
    assert again == text.replace("ns-1", "other").replace(
        f"{NOW_MS - 1500} {NOW_MS + 20}", f"{NOW_MS - 1495} {NOW_MS + 25}"
    )


def form(text: str) -> list[str]:
    return GoldenState("1", text, BOTH).form


def test_the_form_is_without_what_differs_each_time():
    first = form("id 01a2, session 8c6d964b183082a7, due <now+2950>, died <now-10>")
    assert first == form("id 01a2, session 183082a78c6d964b, due <now+2800>, died <now-9000>")
    assert first == ["id <id of a>, session <number>, due <later>, died <before>"]


@pytest.mark.parametrize(
    "other", ["id 01a3, runs 1", "id 01a2, runs 2", "id 01a2, runs 1, x 1", "id 01a2, due <now+1>"]
)
def test_the_form_shows_what_a_release_may_change(other):
    assert form("id 01a2, runs 1") != form(other)


def test_a_state_is_read_as_it_was_written_and_the_latest_comes_last(tmp_path):
    folder = tmp_path / "golden"
    states = [GoldenState(name, f"é {name}\n", BOTH) for name in ("0.2", "0.10", "1.0")]
    for state in reversed(states):
        state.write(folder)
    assert recorded(folder) == states
    assert (folder / "1.0.json").read_text().count("\n") == 6  # a line for each job


@pytest.mark.parametrize("folder", sorted(Path(__file__).parents[2].glob("**/golden/**/*.state")))
def test_no_path_of_a_machine_is_in_what_was_recorded(folder):
    assert re.findall(r"/(?:home|root|work|Users|tmp)/", folder.read_text()) == []


# -- the check ---------------------------------------------------------------------------


def laid(**changes: object) -> Story:
    job = {"id": "a", "tag": "a", "queue": "q", "attempt": 2, "due_in_ms": 0, "args": {}}
    letter = {"id": "d", "tag": "d"}
    return Story().tell(
        "laid",
        number=0,
        workers=["w"],
        jobs=[{**job, **changes}],
        dead=[letter],
        laid_ms=0.0,
        within_ms=60_000,
        slack_ms=50,
    )


def run(story: Story, attempt: int, *, job: str = "a", on: str = "w", **what: object) -> Story:
    story.started(job, attempt, on=on)
    story[-1].what.update({"queue": "q", "args": None, **what})
    return story


def faults(story: Story, *requeued: str) -> list[str]:
    return broken(story.checked("taken_over", laid=0, requeued=list(requeued)))


def test_what_ran_as_it_was_left_is_taken_over():
    assert faults(run(laid(), 2)) == []
    assert faults(run(run(laid(), 2), 1, job="d"), "d") == []
    assert faults(laid(due_in_ms=600_000)) == []
    assert faults(run(run(laid(), 2), 2, on="of another namespace")) == []
    assert faults(run(laid(due_in_ms=5000), 2, wall_ms=4960.0)) == []


@pytest.mark.parametrize(
    ("story", "told"),
    [
        (laid(), "a: expected the runs [2], got []"),
        (run(laid(), 1), "a: expected the runs [2], got [1]"),
        (run(run(laid(), 2), 3), "a: expected the runs [2], got [2, 3]"),
        (run(laid(due_in_ms=600_000), 2, wall_ms=7e5), "a: expected the runs [], got [2]"),
        (run(laid(due_in_ms=5000), 2, wall_ms=4900.0), "a ran 100 ms before it was due"),
        (run(laid(), 2, args=[1]), "expected tag, queue and payload ['a', 'q', None], got"),
        (run(laid(), 2, queue="r"), "got ['a', 'r', None]"),
        (run(run(laid(), 2), 1, job="d"), "the dead letter d: expected the runs [], got [1]"),
        (Story(), "nothing was laid under number 0"),
    ],
)
def test_what_did_not_is_told(story, told):
    (fault,) = faults(story)
    assert told in fault


def test_a_dead_letter_that_was_requeued_and_never_ran_is_told():
    assert faults(run(laid(), 2), "d") == ["the dead letter d: expected the runs [1], got []"]


# -- against drift -------------------------------------------------------------------------


def compare(url: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "offload_conformance.record", url],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


@pytest.mark.parametrize("scheme", ["sqlite", "redis", "amqp"])
def test_what_is_left_now_has_the_form_that_was_recorded_last(scheme, tmp_path):
    """If not, and it is meant: record it under the name of the next release."""
    path = f"/{tmp_path}/jobs.db" if scheme == "sqlite" else f"127.0.0.1:{free_port()}"
    done = compare(
        f"{scheme}://{path}",
        OFFLOAD_REDIS_SERVER="redis-server",
        OFFLOAD_RABBITMQ_SERVER="/usr/lib/rabbitmq/bin/rabbitmq-server",
    )
    assert done.returncode == 0, done.stdout


SUITE = """
import pytest
from pathlib import Path
from offload_conformance.record import test_the_form_of_what_is_left
from offload_sqlite.conformance import SqliteStates

@pytest.fixture
def offload_url(tmp_path):
    return f"sqlite:///{tmp_path}/jobs.db"

@pytest.fixture
def offload_golden_states(tmp_path):
    class States(SqliteStates):
        folder = Path(__file__).with_name("golden")
    return States(tmp_path / "jobs.db")
"""


@pytest.mark.parametrize(
    ("former", "now"),
    [("attempt INTEGER NOT NULL DEFAULT 0", "attempt INTEGER"), ("VALUES (1);", "VALUES (0);")],
)
def test_a_change_that_was_not_recorded_is_told(tmp_path, former, now):
    (last,) = recorded(SqliteStates.folder)[-1:]
    other = last.text.replace(former, now)
    assert other != last.text
    GoldenState("wire-0", other, last.manifest).write(tmp_path / "golden")
    (tmp_path / "test_own.py").write_text(SUITE)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_own.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 1
    assert "has another form than what was recorded last" in done.stdout
    told = [
        line
        for line in done.stdout.splitlines()
        if line.startswith(("-  ", "+  ", "-    ", "+    "))
    ]
    assert any(former in line for line in told if line[0] == "+"), done.stdout
    assert any(now in line for line in told if line[0] == "-"), done.stdout
