"""What strangers wrote is printed as text: nothing steers a terminal, and no line is forged."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import hypothesis
import pytest
from click.testing import CliRunner
from hypothesis import strategies as st

import offload
from offload.cli import logs, main
from offload.worker import DeadLetter

HOSTILE = "\x1b[2J\x1b]0;title\x07\r\u202e\u200b\x85\u2028\x9b31m\x00"


def is_plain(text: str) -> bool:
    return all(c.isprintable() or c in "\n\t" for c in text)


def bury(path: Path, job_id: str, queue: str, handler: str, error: str, args: object) -> None:
    """Put a dead letter into a database, and a job of that queue beside it."""
    job = {"v": 1, "id": "x", "handler": handler, "enqueued_ms": 1, "args": args}
    body = json.dumps(job).encode()
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            "INSERT INTO offload_dead (queue, id, attempts, died_ms, error, traceback, body) "
            "VALUES (?, ?, 1, ?, ?, ?, ?)",
            (queue, job_id, 10**17, error, f"Traceback\n{error}", body),
        )
        connection.execute(
            "INSERT INTO offload_job (queue, id, due_ms, body) VALUES (?, ?, 0, ?)",
            (queue, job_id, body),
        )


texts = st.text(
    alphabet=st.one_of(st.sampled_from(HOSTILE + "\n\tab[/]@?"), st.characters(codec="utf-8")),
    min_size=1,
    max_size=40,
)


@hypothesis.settings(
    max_examples=40, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
@hypothesis.given(texts, texts, texts, texts)
@hypothesis.example(*[f"a{HOSTILE}\nERROR forged"] * 4)
@hypothesis.example(*["[/red][link=file:///etc/passwd]x"] * 4)
def test_every_look_is_plain(tmp_path, job_id, queue, handler, error):
    path = tmp_path / "jobs.db"
    path.unlink(missing_ok=True)
    url = f"sqlite:///{path}"
    run = CliRunner().invoke
    assert run(main, ["perform", url, "note"]).exit_code == 0
    bury(path, job_id, queue, handler, error, {"text": error})
    for arguments in (
        ["queues", url],
        ["dead", "list", url],
        ["dead", "show", url, "--", job_id],
        ["dead", "requeue", url, "--", f"{job_id}x"],
        ["dead", "discard", "--yes", url, "--", job_id],
    ):
        told = run(main, arguments)
        assert is_plain(told.stdout), arguments
        assert is_plain(told.stderr), arguments
        assert not isinstance(told.exception, BaseException) or isinstance(
            told.exception, SystemExit
        ), arguments
    for arguments in (["queues", url, "--json"], ["dead", "list", url, "--json"]):
        json.loads(run(main, arguments).stdout)


@pytest.mark.parametrize("style", ["text", "json"])
def test_a_line_of_the_log_is_one_line(style, capsys):
    logger = logging.getLogger("offload")
    former = (logger.handlers, logger.propagate, logger.level)
    try:
        logs.configure(style, "info")
        error = ValueError(f"a{HOSTILE}\n2026-01-01 00:00:00 ERROR    forged")
        logger.error("job %s", f"x{HOSTILE}\n2026-01-01 00:00:00 INFO     forged", exc_info=error)
    finally:
        logger.handlers, logger.propagate, logger.level = former
    told = capsys.readouterr().err
    assert is_plain(told)
    if style == "json":
        assert "forged" in json.loads(told)["message"]
    else:
        assert not any(line.startswith("2026-01-01") for line in told.split("\n"))
        assert "ERROR    forged" in told


def run_program(*arguments: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "offload", *arguments],
        cwd=cwd,
        env={**os.environ, **env},
        capture_output=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_every_terminal_can_hold_it(tmp_path, encoding):
    url = f"sqlite:///{tmp_path}/jobs.db"
    assert run_program("perform", url, "note", cwd=tmp_path).returncode == 0
    bury(tmp_path / "jobs.db", "idä\u20ac", "queueä", "handler\u20ac", "ä\u20ac", {"ä": "\u20ac"})
    for command in (["dead", "list", url], ["dead", "show", url, "idä\u20ac"], ["queues", url]):
        done = run_program(*command, cwd=tmp_path, PYTHONIOENCODING=encoding)
        assert done.returncode == 0, done.stderr
        assert b"Traceback" not in done.stderr


def test_a_reader_that_leaves_is_no_traceback(tmp_path):
    url = f"sqlite:///{tmp_path}/jobs.db"
    run_program("perform", url, "note", cwd=tmp_path)
    for number in range(300):
        bury(tmp_path / "jobs.db", f"{number}", "default", "note", "no" * 500, {})
    done = subprocess.run(
        f'"{sys.executable}" -m offload dead list "{url}" --json --limit 300 | head -c 10',
        shell=True,
        cwd=tmp_path,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert b"Traceback" not in done.stderr


def test_a_module_that_configures_logging_silences_nothing(tmp_path):
    (tmp_path / "app.py").write_text(
        "import logging.config, os, signal, threading, offload\n"
        "logging.config.dictConfig({'version': 1, 'root': {'level': 'ERROR'}})\n"
        "worker = offload.connect('simple://')\n"
        "threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()\n"
    )
    done = run_program("worker", "app:worker", cwd=tmp_path)
    assert b"worker started on simple://" in done.stderr
    assert b"worker stopped" in done.stderr


def test_a_letter_from_beyond_the_calendar_can_be_shown():
    for milliseconds in (10**20, -(10**20), 2**62):
        letter = DeadLetter("1", "default", "note", {}, 1, "", "", milliseconds)
        assert letter.died_at.isoformat()


@pytest.mark.parametrize("job_id", ["a\0b", "row-7", "row-900"])
def test_a_letter_is_named_by_what_is_shown(tmp_path, job_id):
    url, run = f"sqlite:///{tmp_path}/jobs.db", CliRunner().invoke
    run(main, ["perform", url, "note"])
    for each in ("before", job_id, "after"):
        bury(tmp_path / "jobs.db", each, "default", "note", "no", {})
    listed = json.loads(run(main, ["dead", "list", url, "--json"]).stdout)
    (name,) = (letter["id"] for letter in listed if letter["id"] not in {"before", "after"})
    assert run(main, ["dead", "show", url, name]).exit_code == 0
    assert run(main, ["dead", "discard", "--yes", url, name]).exit_code == 0
    left = json.loads(run(main, ["dead", "list", url, "--json"]).stdout)
    assert [letter["id"] for letter in left] == ["before", "after"]


def test_a_huge_name_is_shortened_in_a_table(tmp_path):
    url, run = f"sqlite:///{tmp_path}/jobs.db", CliRunner().invoke
    run(main, ["perform", url, "note"])
    bury(tmp_path / "jobs.db", "1", "q" * 200_000, "note", "no", {})
    for command in (["queues", url], ["dead", "list", url]):
        assert len(run(main, command).stdout) < 10_000


def test_no_text_of_a_stranger_begins_a_line(tmp_path):
    """Else it could be taken for another letter, another queue, or another field of one."""
    path = tmp_path / "jobs.db"
    with offload.connect(f"sqlite:///{path}").sync:
        pass
    forged = "\nFORGED  2026-11-28 00:37:29Z  default  pay  1"
    bury(path, f"a{forged}", f"q{forged}", f"h{forged}", f"e{forged}", {"k": f"v{forged}"})
    looks = [["dead", "list"], ["queues"], ["dead", "show"]]
    for look in looks:
        words = [*look, f"sqlite:///{path}", *([f"a{forged}"] if "show" in look else [])]
        output = CliRunner().invoke(main, words).output
        assert "FORGED" in output
        assert not [line for line in output.splitlines() if line.startswith("FORGED")]


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("raise ValueError('\\x1b[2J evil')", r"ValueError: \x1b[2J evil"),
        ("import sys; sys.exit(0)", "has ended its import by SystemExit(0)"),
    ],
)
def test_a_module_that_can_not_be_imported_is_told_in_plain_text(tmp_path, source, told):
    (tmp_path / "app.py").write_text(source)
    done = subprocess.run(
        [sys.executable, "-m", "offload", "worker", "app:worker"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert told in done.stderr
    assert is_plain(done.stderr)


def test_a_file_that_is_not_there_is_named_in_plain_text():
    result = CliRunner().invoke(main, ["queues", "sqlite:////tmp/a%0ab%1b.db"])
    assert result.exit_code == 1
    assert r"/tmp/a\nb\x1b.db does not exist" in result.output
