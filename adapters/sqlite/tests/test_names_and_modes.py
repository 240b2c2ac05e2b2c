"""The file by all its names, in any folder, for any user, and what happens when it goes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sqlite3
import stat
import subprocess
import sys
import time

import pytest
from processes import worker_process
from support import DEADLINE

import offload
from offload import BackendError, BackendUnavailableError, ConfigError, Job
from offload_sqlite.bell import Bells, Life

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")


async def test_a_changed_folder_changes_no_path(tmp_path, monkeypatch, connect, recorder):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    monkeypatch.chdir(tmp_path / "one")
    worker = connect("sqlite:///jobs.db", lease="600ms")
    other = connect(f"sqlite:///{tmp_path}/one/jobs.db", lease="600ms", queues="default,fence")
    runs = []

    async def move(args):
        runs.append(offload.current_job().attempt)
        os.chdir(tmp_path / "two")
        await recorder.hold(args)

    async def take_over(args):
        runs.append(offload.current_job().attempt)

    worker.register("move", move)
    other.register("move", take_over)
    other.register("note", recorder.note)
    await worker.start()
    await worker.perform(Job("move"))
    await recorder.until_started(1)
    await other.start()
    # More than the lease passes, and the other one has looked for the dead meanwhile.
    fence = await other.perform_in(Job("note", queue="fence"), 2.5)
    await recorder.until(lambda: fence in recorder.ended)
    recorder.gate.set()
    await worker.stop()
    assert runs == [1]
    assert list((tmp_path / "two").iterdir()) == []


async def test_the_bell_is_found_by_every_link(tmp_path, connect):
    (tmp_path / "real").mkdir()
    (tmp_path / "link.db").symlink_to(tmp_path / "real" / "jobs.db")
    (tmp_path / "folder").symlink_to(tmp_path / "real")
    performers = [
        connect(f"sqlite:///{tmp_path}/real/jobs.db"),
        connect(f"sqlite:///{tmp_path}/folder/jobs.db"),
        connect(f"sqlite:///{tmp_path}/link.db"),
    ]
    async with worker_process(f"sqlite:///{tmp_path}/link.db") as worker:
        delays = []
        for n in range(12):
            before = time.time()
            await performers[n % 3].perform(Job("note"))
            started = await worker.until("started", n + 1)
            delays.append(started[-1]["at"] - before)
        assert len(bells(tmp_path / "real")) == 1
    # Far below any polling: each of the three wakes it.
    assert all(sorted(delays[n::3])[1] < 0.1 for n in range(3))


def bells(folder):
    return [path for path in folder.iterdir() if "-worker-" in path.name]


@pytest.mark.parametrize("mode", ["600", "640", "660", "0666"])
async def test_the_mode_is_that_of_every_file_from_the_start(tmp_path, connect, mode):
    before = os.umask(0o027)
    try:
        worker = connect(f"sqlite:///{tmp_path}/jobs.db", mode=mode)
        await worker.start()
        await worker.perform(Job("note"))
        found = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    finally:
        os.umask(before)
    assert len(found) == 4
    assert set(found.values()) == {int(mode, 8)}


async def test_the_mode_is_given_to_a_file_that_is_there(tmp_path, sqlite_url, connect):
    await connect(sqlite_url).perform(Job("note"))
    worker = connect(sqlite_url, mode="600")
    await worker.start()
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}


@pytest.mark.parametrize("mode", ["777", "0", "x", "200", "4600", "700", "600 ", "-600"])
def test_a_mode_that_makes_no_sense(mode):
    with pytest.raises(ConfigError, match="mode"):
        offload.connect(f"sqlite:///jobs.db?mode={mode}")


async def test_the_pipe_admits_whom_the_database_admits(tmp_path, sqlite_url, connect):
    await connect(sqlite_url).counts()
    path = tmp_path / "jobs.db"
    path.chmod(0o664)
    if os.geteuid() == 0:
        os.chown(path, -1, 65534)
    await connect(sqlite_url).start()
    (bell,) = bells(tmp_path)
    assert stat.S_IMODE(bell.stat().st_mode) == 0o664
    assert bell.stat().st_gid == path.stat().st_gid


RING = """
import os, sys, offload_sqlite.bell as bell
from pathlib import Path
os.setgid(65534)
os.setuid(65534)
path = Path(sys.argv[1])
print(bell.Bells(path).ring(sys.argv[2]).value)
"""


@root_only
async def test_a_performer_of_another_user_rings(tmp_path, connect):
    for folder in [tmp_path, *tmp_path.parents]:
        if folder.stat().st_uid == 0 and folder.name.startswith(("pytest", "test", "popen")):
            folder.chmod(0o755)
    path = tmp_path / "jobs.db"
    await connect(f"sqlite:///{path}", mode="666").start()
    (bell,) = bells(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", RING, str(path), bell.name],
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE,
    )
    assert done.stdout == "alive\n", done.stderr


def test_a_pipe_that_is_full_of_rings_is_no_reason_to_wait(tmp_path):
    belfry = Bells(tmp_path / "jobs.db")
    bell = belfry.make()
    with contextlib.suppress(BlockingIOError):
        while os.write(bell._file, b"!" * 4096):
            pass
    assert belfry.ring(bell.path.name) is belfry.ask(bell.path.name) is Life.ALIVE
    bell.close()


NAME = "jobs.db-worker-0123456789abcdef"


@pytest.mark.parametrize("kind", ["file", "link", "link-to-pipe", "socket", "folder", "nothing"])
def test_a_bell_that_is_no_pipe_is_left_alone(tmp_path, kind):
    target = tmp_path / "precious"
    target.write_bytes(b"precious")
    path = tmp_path / NAME
    with contextlib.ExitStack() as stack:
        if kind == "file":
            path.write_bytes(b"precious")
        elif kind == "link":
            path.symlink_to(target)
        elif kind == "link-to-pipe":
            os.mkfifo(tmp_path / "pipe")
            path.symlink_to(tmp_path / "pipe")
        elif kind == "socket":
            stack.enter_context(socket.socket(socket.AF_UNIX)).bind(str(path))
        elif kind == "folder":
            path.mkdir()
        before = os.path.lexists(path)
        belfry = Bells(tmp_path / "jobs.db")
        assert belfry.ring(NAME) is belfry.ask(NAME) is Life.UNKNOWN
        belfry.remove(NAME)
        assert os.path.lexists(path) == before
    assert target.read_bytes() == b"precious"
    assert kind != "file" or path.read_bytes() == b"precious"


@pytest.mark.parametrize(
    "name",
    [
        *("", "..", "/", "../" + NAME, NAME + "/", NAME + "\0", NAME + "\n", "x" * 5000),
        *("jobs.db", "other.db-worker-0123456789abcdef", NAME.upper(), b"x", None, 7),
    ],
)
def test_a_name_that_is_no_bells_is_ignored(tmp_path, name):
    (tmp_path / "jobs.db").write_bytes(b"precious")
    assert Bells(tmp_path / "jobs.db").ring(name) is Life.UNKNOWN
    assert (tmp_path / "jobs.db").read_bytes() == b"precious"


def remove(path):
    for each in path.parent.glob("jobs.db*"):
        if "-worker-" not in each.name:
            each.unlink()


def replace(path):
    remove(path)
    worker = offload.connect(f"sqlite:///{path}")

    async def make():
        await worker.counts()
        await worker.stop()

    asyncio.run(make())


@pytest.mark.parametrize("lose", [remove, replace])
async def test_no_job_goes_into_a_file_that_is_gone(tmp_path, sqlite_url, connect, caplog, lose):
    performer = connect(sqlite_url)
    await performer.perform(Job("note"))
    await asyncio.to_thread(lose, tmp_path / "jobs.db")
    job_id = await performer.perform(Job("note"))
    with contextlib.closing(sqlite3.connect(tmp_path / "jobs.db")) as connection:
        assert connection.execute("SELECT id FROM offload_job").fetchall() == [(job_id,)]
    assert "removed or replaced" in caplog.text


@pytest.mark.parametrize("lose", [remove, replace])
async def test_a_worker_goes_on_with_the_file_that_has_the_name(
    tmp_path, sqlite_url, connect, recorder, lose
):
    worker = connect(sqlite_url)
    worker.register("note", recorder.note)
    worker.register("hold", recorder.hold)
    await worker.start()
    await worker.perform(Job("hold"))
    await recorder.until_started(1)
    await asyncio.to_thread(lose, tmp_path / "jobs.db")
    performer = connect(sqlite_url)
    job_id = await performer.perform(Job("note"))
    await recorder.until(lambda: job_id in recorder.ended)
    recorder.gate.set()
    await worker.stop()
    assert await performer.counts() == {}


async def test_a_folder_that_is_removed_is_said_to_be(tmp_path, connect):
    folder = tmp_path / "gone"
    folder.mkdir()
    worker = connect(f"sqlite:///{folder}/jobs.db")
    await worker.perform(Job("note"))
    remove(folder / "jobs.db")
    folder.rmdir()
    with pytest.raises(BackendUnavailableError, match="can't be opened"):
        await worker.perform(Job("note"))
    folder.mkdir()
    await worker.perform(Job("note"))


async def test_a_pipe_in_the_place_of_the_database_is_refused(tmp_path, connect):
    os.mkfifo(tmp_path / "jobs.db")
    with pytest.raises(BackendError, match="not a regular file"):
        async with asyncio.timeout(DEADLINE):
            await connect(f"sqlite:///{tmp_path}/jobs.db").perform(Job("note"))


@pytest.mark.parametrize("namespace", ["sqlite", "sqlite_", "sqlite_jobs"])
def test_names_that_sqlite_keeps_are_refused_at_once(namespace):
    with pytest.raises(ConfigError, match="namespace"):
        offload.connect(f"sqlite:///jobs.db?namespace={namespace}")


@pytest.mark.parametrize(
    "namespace", ["sqlit", "SQLite", "sqlitex", "select", "main", "temp", "-", "_", "x" * 120, "0"]
)
async def test_every_other_namespace_works(sqlite_url, connect, namespace):
    worker = connect(sqlite_url, namespace=namespace)
    await worker.perform(Job("note"))
    assert (await worker.counts())["default"].waiting == 1


@pytest.mark.parametrize("path", ["", "..", ".", "a/..", "a/", "a%00", "\ud800"])
def test_a_path_that_can_name_no_file(path):
    with pytest.raises(ConfigError, match=r"sqlite:///jobs\.db"):
        offload.connect(f"sqlite:///{path}")
