"""The file: where it may be, and what happens when it can't be used."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from sqlite_poison import make_tables
from support import DEADLINE

import offload
from offload import BackendError, BackendUnavailableError, ConfigError, Job


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///",
        "sqlite://jobs.db",
        "sqlite:///:memory:",
        "sqlite:////tmp/",
        "sqlite:///a%00b",
        "sqlite://user@/jobs.db",
    ],
)
def test_a_config_string_that_names_no_file(url):
    with pytest.raises(ConfigError, match=r"sqlite:///jobs\.db"):
        offload.connect(url)


@pytest.mark.parametrize(
    "query", ["lease=0s", "lease=x", "synchronous=off", "busy_timeout=-1s", "busy_timeout=1h"]
)
def test_conf_3_bad_options(query):
    name, value = query.split("=")
    with pytest.raises(ConfigError) as caught:
        offload.connect(f"sqlite:///jobs.db?{query}")
    assert name in str(caught.value) and value in str(caught.value)


async def test_relative_and_percent_encoded_paths(tmp_path, monkeypatch, connect):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a b").mkdir()
    worker = connect("sqlite:///a%20b/j%C3%B6bs.db")
    await worker.perform(Job("note"))
    assert (tmp_path / "a b" / "jöbs.db").exists()


async def test_a_file_that_is_not_a_database(tmp_path, connect):
    path = tmp_path / "jobs.db"
    path.write_text("my precious notes\n" * 200)
    worker = connect(f"sqlite:///{path}")
    for call in (worker.start(), worker.perform(Job("note")), worker.counts()):
        with pytest.raises(BackendError, match=r"jobs\.db is not a SQLite database"):
            await call
    assert path.read_text() == "my precious notes\n" * 200


async def test_a_database_of_somebody_else_is_shared(tmp_path, connect, recorder):
    path = tmp_path / "app.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE job (id)")
    connection.close()
    worker = connect(f"sqlite:///{path}")
    worker.register("note", recorder.note)
    await worker.start()
    await worker.perform(Job("note"))
    await recorder.until_started(1)


async def test_tables_of_a_newer_release(tmp_path, connect):
    path = tmp_path / "jobs.db"
    worker = connect(f"sqlite:///{path}")
    await make_tables(tmp_path / "jobs.db")
    await worker.stop()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE offload_schema SET version = 99")
    connection.close()
    with pytest.raises(BackendError, match="of version 99"):
        await connect(f"sqlite:///{path}").start()


async def test_a_locked_file(tmp_path, connect, recorder):
    path = tmp_path / "jobs.db"
    worker = connect(f"sqlite:///{path}", busy_timeout="50ms")
    worker.register("note", recorder.note)
    await worker.start()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(BackendUnavailableError, match="locked by another program") as caught:
        await worker.perform(Job("note"))
    assert not caught.value.maybe_stored
    other.execute("ROLLBACK")
    assert other.execute("SELECT count(*) FROM offload_job").fetchone() == (0,)
    other.close()
    await worker.perform(Job("note"))
    await recorder.until_started(1)


async def test_a_lock_while_jobs_end_loses_nothing(tmp_path, connect, recorder):
    """Verdicts wait for the backend; the jobs are not run again."""
    path = tmp_path / "jobs.db"
    worker = connect(f"sqlite:///{path}", busy_timeout="20ms")
    worker.register("hold", recorder.hold)
    await worker.start()
    await worker.perform_many([Job("hold")] * 5)
    await recorder.until_started(5)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    recorder.gate.set()
    await recorder.until(lambda: len(recorder.ended) == 5)
    with pytest.raises(BackendUnavailableError):
        await worker.perform(Job("hold"))
    other.execute("ROLLBACK")
    other.close()
    await worker.perform(Job("hold"))
    await recorder.until_started(6)
    await worker.stop()
    assert await worker.counts() == {}
    assert len(recorder.started) == 6


async def test_many_processes_open_a_new_file_at_once(tmp_path):
    script = textwrap.dedent(
        """
        import asyncio, sys, offload
        async def main():
            worker = offload.connect(sys.argv[1])
            await worker.perform(offload.Job("note"))
            await worker.stop()
        asyncio.run(main())
        """
    )
    url = f"sqlite:///{tmp_path}/jobs.db"
    processes = [subprocess.Popen([sys.executable, "-c", script, url]) for _ in range(8)]
    assert [process.wait(DEADLINE) for process in processes] == [0] * 8
    worker = offload.connect(url)
    assert (await worker.counts())["default"].waiting == 8
    await worker.stop()


FULL_DISK = """
import asyncio, os, sys, offload
from offload import BackendUnavailableError, Job

folder = sys.argv[1]
accepted, seen = [], []

async def main():
    with open(f"{folder}/ballast", "wb") as ballast:
        ballast.write(bytes(6_000_000))
    worker = offload.connect(f"sqlite:///{folder}/jobs.db")
    done = asyncio.Event()

    @worker.handler("note")
    async def note(args):
        seen.append(offload.current_job().id)
        if len(seen) == len(accepted):
            done.set()

    try:
        for n in range(100):
            accepted.append(await worker.perform(Job("note", {"n": n, "fill": "x" * 100_000})))
    except BackendUnavailableError as error:
        assert "the disk is full" in str(error), error
        assert not error.maybe_stored
    else:
        raise SystemExit("the disk never filled")
    assert accepted
    try:
        await worker.start()
    except BackendUnavailableError as error:
        assert "the disk is full" in str(error), error
    os.unlink(f"{folder}/ballast")
    if worker.state is offload.State.NEW:
        await worker.start()
    await asyncio.wait_for(done.wait(), 20)
    assert (await worker.stop()).returned == ()
    assert seen == accepted, (len(seen), len(accepted))

asyncio.run(main())
print("every accepted job ran", len(accepted))
"""


def test_a_full_disk(tmp_path):
    """On a real file system of nine megabytes; six of them are freed when it is full."""
    folder = tmp_path / "small"
    folder.mkdir()
    script = tmp_path / "full_disk.py"
    script.write_text(FULL_DISK)
    namespaces = "-m" if os.geteuid() == 0 else "-rm"
    mount = f"mount -t tmpfs -o size=9m tmpfs {folder} && exec {sys.executable} {script} {folder}"
    done = subprocess.run(
        ["unshare", namespaces, "sh", "-c", mount],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "every accepted job ran" in done.stdout, done.stderr


READ_ONLY = """
import asyncio, os, sys, offload
from offload import BackendUnavailableError, Job
import offload.engine, offload_sqlite  # all that it needs, while it may still read it

async def main():
    worker = offload.connect(f"sqlite:///{sys.argv[1]}/jobs.db")
    for call in (worker.start(), worker.perform(Job("note"))):
        try:
            await call
        except BackendUnavailableError as error:
            print(error)
        else:
            raise SystemExit("it could write")
    await worker.stop()

offload.connect(f"sqlite:///{sys.argv[1]}/jobs.db")
if os.geteuid() == 0:
    os.setuid(65534)
asyncio.run(main())
"""


@pytest.mark.parametrize("exists", [False, True])
def test_a_read_only_folder(tmp_path: Path, exists: bool):
    folder = tmp_path / "readonly"
    folder.mkdir()
    if exists:
        sqlite3.connect(folder / "jobs.db").execute("CREATE TABLE t (x)").connection.close()
        (folder / "jobs.db").chmod(0o444)
    folder.chmod(0o555)
    for parent in list(folder.parents)[:-1]:
        if parent.stat().st_uid == os.geteuid() and parent.name.startswith(
            ("pytest", "test", "popen")
        ):
            parent.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", READ_ONLY, str(folder)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    folder.chmod(0o755)
    lines = done.stdout.splitlines()
    assert len(lines) == 2, done.stderr
    assert all("jobs.db can't be" in line for line in lines)
    assert [path.name for path in folder.iterdir()] == (["jobs.db"] if exists else [])


async def test_the_file_is_left_alone_by_a_worker_that_was_never_used(tmp_path):
    worker = offload.connect(f"sqlite:///{tmp_path}/jobs.db")
    await worker.stop()
    assert list(tmp_path.iterdir()) == []


async def test_a_bell_left_by_a_killed_worker_is_removed(tmp_path, sqlite_url, connect, recorder):
    from processes import worker_process

    async with worker_process(sqlite_url) as victim:
        await victim.kill()
    left = [path for path in tmp_path.iterdir() if "-worker-" in path.name]
    assert len(left) == 1
    worker = connect(sqlite_url)
    worker.register("note", recorder.note)
    await worker.start()
    await worker.perform(Job("note"))
    await recorder.until_started(1)
    async with asyncio.timeout(DEADLINE):
        await worker.stop()
    assert [path.name for path in tmp_path.iterdir()] == ["jobs.db"]


async def test_namespaces_that_differ_in_case_are_two(sqlite_url, connect):
    for namespace in ("mail", "Mail", "MAIL"):
        await connect(sqlite_url, namespace=namespace).perform(Job("note"))
    for namespace in ("mail", "Mail", "MAIL"):
        counts = await connect(sqlite_url, namespace=namespace).counts()
        assert counts["default"].waiting == 1


async def test_a_worker_whose_bell_was_removed_says_so_and_looks_for_itself(
    tmp_path, sqlite_url, connect, recorder, caplog
):
    worker, performer = connect(sqlite_url), connect(sqlite_url)
    worker.register("note", recorder.note)
    await worker.start()
    (bell,) = tmp_path.glob("jobs.db-worker-*")
    bell.unlink()
    async with asyncio.timeout(DEADLINE):
        while not any("polling instead" in record.getMessage() for record in caplog.records):
            await asyncio.sleep(0.01)
        for number in range(5):
            await performer.perform(Job("note"))
            await recorder.until_started(number + 1)
    assert len(caplog.records) == 1
