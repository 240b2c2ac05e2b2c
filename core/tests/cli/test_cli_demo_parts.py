"""What the demo is made of."""

from __future__ import annotations

import hashlib
import os
import socket
import sqlite3
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import offload
from offload.cli.demo import reading
from offload.cli.demo.conductor import Conductor
from offload.cli.demo.handlers import Handlers
from offload.cli.demo.ledger import Item, Kind, Ledger, Outcome, Result
from offload.cli.demo.reading import read
from offload.cli.demo.totals import Totals
from offload.cli.demo.walk import walk
from offload.worker import DeadLetter

# -- reading -------------------------------------------------------------------

CONTENTS = st.one_of(
    st.text(st.sampled_from("a\t \né漢\x0b")).map(str.encode), st.binary(max_size=50)
)


@given(content=CONTENTS, chunk=st.integers(1, 5))
def test_reading_in_chunks_is_reading_at_once(tmp_path_factory, content, chunk):
    path = tmp_path_factory.mktemp("reading") / "file"
    path.write_bytes(content)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(reading, "CHUNK", chunk)
        found = read(path)

    assert found.size == len(content)
    assert found.digest == hashlib.sha256(content).hexdigest()
    assert found.words == (len(content.split()) if is_text(content) else None)


def is_text(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return b"\0" not in content


def test_what_is_no_regular_file_any_more(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    (tmp_path / "target").write_text("")

    for name in ("pipe", "link"):
        with pytest.raises(OSError, match="no regular file"):
            read(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "nothing")


# -- walking -------------------------------------------------------------------


def make(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")


def test_walk_finds_regular_files_in_order(tmp_path):
    make(tmp_path / "b" / "2", tmp_path / "b" / "1", tmp_path / "a" / "x" / "y", tmp_path / "z")

    assert walk(tmp_path, []).paths == ["z", "a/x/y", "b/1", "b/2"]


def test_walk_passes_over_what_is_not_the_users(tmp_path):
    make(
        tmp_path / "kept",
        tmp_path / ".git" / "config",
        tmp_path / "deep" / "__pycache__" / "module.pyc",
        tmp_path / "env" / "pyvenv.cfg",
        tmp_path / "env" / "lib" / "module.py",
        tmp_path / "jobs.db",
        tmp_path / "jobs.db-wal",
        tmp_path / "deep" / "jobs.db",
        tmp_path / "jobs.database",
    )
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    (tmp_path / "loop").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "socket"))

    found = walk(tmp_path, [tmp_path / "jobs.db"])

    assert found.paths == ["jobs.database", "kept", "deep/jobs.db"]
    assert found.unreadable == 0


def test_walk_counts_what_it_may_not_read(tmp_path, monkeypatch):
    make(tmp_path / "open", tmp_path / "shut", tmp_path / "folder" / "inside")
    Path(os.fsdecode(bytes(tmp_path / "n") + b"\xff")).write_text("a name that is no text")
    access, scandir = os.access, os.scandir
    # Root may read everything, so permissions alone would prove nothing there.
    monkeypatch.setattr(os, "access", lambda path, mode: "shut" not in path and access(path, mode))

    def scan(path):
        if path.endswith("folder"):
            raise PermissionError(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)

    found = walk(tmp_path, [])

    assert found.paths == ["open"]
    assert found.unreadable == 3


# -- the ledger ----------------------------------------------------------------


@pytest.fixture
def ledgers(tmp_path):
    """Opens the same ledger, as one process after the other."""
    opened: list[Ledger] = []

    def open_ledger():
        for before in opened:
            before.close()
        opened.append(Ledger(tmp_path / "ledger.db"))
        return opened[-1]

    yield open_ledger
    for each in opened:
        each.close()


FILE = Result(outcome=Outcome.DONE, size=5, words=2, digest="d")


def test_a_result_counts_once(ledgers):
    ledger = ledgers()
    ledger.plan([Item(Kind.FILE, "a"), Item(Kind.FILE, "b")])

    ledger.record(Kind.FILE, "a", FILE)
    ledger.record(Kind.FILE, "a", Result(outcome=Outcome.DONE, size=7, words=7))

    assert (ledger.open, ledger.repeats) == (1, 1)
    totals = Totals.of(ledger)
    assert (totals.files, totals.read, totals.size, totals.words) == (2, 1, 5, 2)


def test_results_from_many_threads(ledgers):
    ledger = ledgers()
    paths = [str(number) for number in range(300)]
    ledger.plan([Item(Kind.FILE, path) for path in paths])

    def record_all():
        for path in paths:
            ledger.record(Kind.FILE, path, FILE)

    threads = [threading.Thread(target=record_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert (ledger.open, ledger.repeats) == (0, 900)
    assert Totals.of(ledger).size == 1500


def test_it_goes_on_where_it_was(ledgers):
    first = ledgers()
    assert not first.is_resumed
    assert first.plan([Item(Kind.FILE, name) for name in "abcd"]) == 4
    first.mark_performed(first.unperformed(2))
    first.record(Kind.FILE, "a", FILE)

    second = ledgers()

    assert second.is_resumed
    assert second.run == first.run
    assert (second.planned, second.open) == (4, 3)
    assert [item.path for item in second.unperformed(10)] == ["c", "d"]
    assert second.plan([Item(Kind.FILE, "d"), Item(Kind.FILE, "e")]) == 1
    assert (second.planned, second.open) == (5, 4)

    second.forget_performed()
    assert [item.path for item in second.unperformed(10)] == ["b", "c", "d", "e"]


def test_a_plan_is_written_whole_or_not_at_all(ledgers):
    def broken():
        yield Item(Kind.FILE, "a")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        ledgers().plan(broken())

    ledger = ledgers()
    assert not ledger.is_resumed
    assert ledger.planned == 0


def test_one_process_at_a_time(ledgers, tmp_path):
    ledgers()

    with pytest.raises(sqlite3.OperationalError) as raised:
        Ledger(tmp_path / "ledger.db")

    assert raised.value.sqlite_errorcode == sqlite3.SQLITE_BUSY


def test_no_link_is_followed_and_nobody_else_may_read(tmp_path):
    (tmp_path / "link.db").symlink_to(tmp_path / "target.db")
    with pytest.raises(OSError, match="symbolic links"):
        Ledger(tmp_path / "link.db")

    Ledger(tmp_path / "ledger.db").close()
    assert (tmp_path / "ledger.db").stat().st_mode & 0o777 == 0o600


def test_jobs_of_another_plan_are_strangers(ledgers):
    ledger = ledgers()

    assert ledger.knows(ledger.run)
    assert not ledger.knows("another")
    assert not ledger.knows(None)
    assert ledger.strangers == 2


# -- the conductor ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("queue", "ours", "open_after"),
    [("b", True, 0), ("b", False, 1), ("default", True, 1)],
    ids=["ours", "of another plan", "in another queue"],
)
def test_only_dead_letters_of_this_plan_count(ledgers, tmp_path, queue, ours, open_after):
    ledger = ledgers()
    ledger.plan([Item(Kind.DOOMED)])
    worker = offload.connect("simple://?queues=a,b")
    conductor = Conductor(worker, ledger, Handlers(tmp_path, ledger), ("a", "b"))
    args = {"run": ledger.run if ours else "another", "path": ""}

    conductor._note(DeadLetter("1", queue, Kind.DOOMED, args, 1, "no way", "", 0))

    assert ledger.open == open_after
