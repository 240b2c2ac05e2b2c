"""`offload demo`: every file exactly once, whatever happens meanwhile."""

from __future__ import annotations

import os
import pty
import random
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

import offload
from offload.cli.demo import command, conductor, ledger, walk
from offload.engine import DriverWorker

FILES = 2000


@pytest.fixture
def tree(tmp_path):
    """A folder of many small files, and one that isn't text."""
    return make_tree(tmp_path / "tree", FILES)


@pytest.fixture
def small_tree(tmp_path):
    return make_tree(tmp_path / "small", 30)


def make_tree(folder: Path, files: int) -> Path:
    for number in range(files - 1):
        place = folder / f"{number % 20}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.txt").write_text("wörd " * (number % 7) + f"\n{number}")
    (folder / "binary").write_bytes(b"\0not text")
    return folder


def shown(out: str) -> dict[str, str]:
    """The rows of the tables in the end."""
    rows = re.findall(r"^(\S[\w ]*?\w) {2,}(\S.*?) *$", out, re.MULTILINE)
    return dict(rows)


def check_all_is_accounted_for(out: str, folder: Path) -> dict[str, str]:
    """Compare what is shown with a walk of our own."""
    contents = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    texts = [content for content in contents if b"\0" not in content]
    rows = shown(out)
    assert rows["Files"] == f"{len(contents):,} of {len(contents):,} read"
    assert rows["Bytes"].startswith(f"{sum(map(len, contents)):,} (")
    words = sum(len(text.split()) for text in texts)
    assert rows["Words"] == f"{words:,} in {len(texts):,} text files"
    assert rows["Scheduled rechecks"] == "5 of 5, 0 found changed"
    assert re.fullmatch(
        r"[\d.]+ / [\d.]+ / [\d.]+ ms \(min / median / max\)", rows["Their lateness"]
    )
    assert rows["Flaky job"].startswith("succeeded at attempt ")
    assert rows["Dead letters"] == "1"
    return rows


@pytest.fixture(autouse=True)
def _sooner(monkeypatch):
    """The demos in this process reread their files sooner, for nobody watches them."""
    monkeypatch.setattr(command, "RECHECK_SECONDS", 0.1)


def number(text: str) -> int:
    return int(text.split()[0].replace(",", ""))


@pytest.fixture
def killed_in(run, small_tree, sqlite_url, monkeypatch):
    """Kills a demo where it would call that method of its conductor."""

    def killed_in(method, recheck_seconds=0.1):
        with monkeypatch.context() as patched:
            patched.setattr(command, "RECHECK_SECONDS", recheck_seconds)
            patched.setattr(conductor.Conductor, method, killed)
            with pytest.raises(Killed):
                run("demo", str(small_tree), "--url", sqlite_url, catch_exceptions=False)

    return killed_in


@pytest.fixture
def no_ledger_left(tmp_path):
    yield
    assert list((tmp_path / "tmp").glob("offload-demo-*")) == []


def test_in_memory(start, tree, no_ledger_left):
    program = start("demo", str(tree))

    assert program.result() == 0
    rows = check_all_is_accounted_for(program.out, tree)
    assert number(rows["Recovered"]) == 0
    assert number(rows["Jobs started"]) == FILES + 5 + 3 + 1
    assert number(rows["Jobs a second"]) > 0
    assert rows["Retries"] == "2"
    assert rows["Flaky job"] == "succeeded at attempt 3"
    assert number(rows["Repeats"]) == 0
    assert "\x1b" not in program.out
    assert program.err == ""


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_again_and_again_and_it_finishes_the_rest(
    start, run, tree, sqlite_url, counts, seed, no_ledger_left
):
    chance = random.Random(seed)
    killed_ones = []
    while True:
        program = start("demo", str(tree), "--url", sqlite_url)
        program.until_line(f"{tree} on ")
        if len(killed_ones) == 4 or program.ended(chance.uniform(0.0, 0.4)):
            break
        program.kill()
        killed_ones.append(program)

    assert program.result() == 0
    assert any("Going on" in each.out for each in [*killed_ones, program])
    check_all_is_accounted_for(program.out, tree)
    (queue,) = counts().values()
    assert queue.keys() == {"dead"}
    # Each kill may have come before the performing was noted.
    assert 1 <= queue["dead"] <= 1 + len(killed_ones)
    assert f"offload dead list '{sqlite_url}'" in program.out
    assert "demo.doomed" in run("dead", "list", sqlite_url).stdout


def test_a_second_run_is_not_confused_by_the_first_ones_dead_letter(
    start, run, small_tree, sqlite_url, counts, no_ledger_left
):
    for runs in (1, 2):
        told = run("demo", str(small_tree), "--url", sqlite_url)

        assert told.exit_code == 0
        rows = check_all_is_accounted_for(told.output, small_tree)
        assert number(rows["Recovered"]) == 0
        assert "Strangers" not in rows
        (queue,) = counts().values()
        assert queue == {"dead": runs}


def test_it_reads_no_database_of_its_own_and_logs_no_single_job(run, small_tree, monkeypatch):
    monkeypatch.chdir(small_tree)

    told = run("demo", "--url", "sqlite:///jobs.db")

    assert told.exit_code == 0
    assert told.stderr == ""
    (small_tree / "jobs.db").unlink()
    check_all_is_accounted_for(told.output, small_tree)


def test_jobs_of_the_user_are_left_alone(run, small_tree, sqlite_url, counts):
    run("perform", sqlite_url, "demo.file", "--args", '{"path": "x"}')

    told = run("demo", str(small_tree), "--url", sqlite_url)

    assert told.exit_code == 0
    check_all_is_accounted_for(told.output, small_tree)
    assert counts()["default"] == {"waiting": 1}


def test_killed_between_performing_a_batch_and_noting_it(
    run, small_tree, sqlite_url, monkeypatch, counts, no_ledger_left
):
    with monkeypatch.context() as patched:
        patched.setattr(ledger.Ledger, "mark_performed", killed)
        with pytest.raises(Killed):
            run("demo", str(small_tree), "--url", sqlite_url, catch_exceptions=False)

    told = run("demo", str(small_tree), "--url", sqlite_url)

    assert told.exit_code == 0
    rows = check_all_is_accounted_for(told.output, small_tree)
    assert number(rows["Recovered"]) + number(rows["Repeats"]) > 0
    assert all(states.keys() == {"dead"} for states in counts().values())


def test_killed_before_a_dead_letter_was_noted(
    run, small_tree, sqlite_url, killed_in, counts, no_ledger_left
):
    killed_in("_note")

    told = run("demo", str(small_tree), "--url", sqlite_url)

    assert told.exit_code == 0
    rows = check_all_is_accounted_for(told.output, small_tree)
    assert "Vanished" not in rows
    (queue,) = counts().values()
    assert queue == {"dead": 1}


def test_jobs_that_somebody_removed_are_performed_again(
    run, small_tree, sqlite_url, killed_in, no_ledger_left
):
    killed_in("_follow", recheck_seconds=0.5)  # not before the drain is over
    Path(sqlite_url.removeprefix("sqlite:///")).unlink()

    told = run("demo", str(small_tree), "--url", sqlite_url)

    assert told.exit_code == 0
    rows = check_all_is_accounted_for(told.output, small_tree)
    assert number(rows["Vanished"]) >= 5  # the scheduled ones were not due before


@pytest.fixture
def counting_little(monkeypatch):
    """The backend can't tell what is scheduled, nor what runs."""
    count_all = DriverWorker.counts

    async def count_some(self):
        found = await count_all(self)
        known = [found.get(queue, offload.QueueCounts()) for queue in self._queues]
        told = [msgspec.structs.replace(each, scheduled=None, running=None) for each in known]
        return dict(zip(self._queues, told, strict=True))

    monkeypatch.setattr(DriverWorker, "counts", count_some)


@pytest.mark.usefixtures("counting_little")
def test_a_backend_that_can_not_count_everything(run, small_tree, monkeypatch):
    monkeypatch.setattr(conductor, "LOOK_SECONDS", 0.01)  # it looks while jobs are scheduled

    told = run("demo", str(small_tree))

    assert told.exit_code == 0
    rows = check_all_is_accounted_for(told.output, small_tree)
    assert "Vanished" not in rows
    assert rows["Recovered"].endswith("at the start, and those that it can't count")


@pytest.mark.usefixtures("counting_little")
def test_killed_before_a_dead_letter_was_noted_where_not_everything_is_counted(
    run, small_tree, sqlite_url, killed_in, no_ledger_left
):
    killed_in("_note")

    told = run("demo", str(small_tree), "--url", sqlite_url)

    assert told.exit_code == 0
    assert "Vanished" not in check_all_is_accounted_for(told.output, small_tree)


@pytest.mark.usefixtures("counting_little")
def test_jobs_that_were_removed_where_not_everything_is_counted(
    run, small_tree, sqlite_url, monkeypatch, killed_in, no_ledger_left
):
    killed_in("_follow")
    Path(sqlite_url.removeprefix("sqlite:///")).unlink()
    monkeypatch.setattr(conductor, "PATIENCE_SECONDS", 0.2)

    told = run("demo", str(small_tree), "--url", sqlite_url)

    assert told.exit_code == 0
    assert number(check_all_is_accounted_for(told.output, small_tree)["Vanished"]) >= 5


def test_jobs_that_vanish_every_time_are_an_error(run, small_tree, monkeypatch):
    async def store_nothing(self, jobs):
        return []

    monkeypatch.setattr("offload.engine.DriverWorker.perform_many", store_nothing)
    monkeypatch.setattr(conductor, "LOOK_SECONDS", 0.01)

    told = run("demo", str(small_tree))

    assert told.exit_code == 1
    assert "32 jobs vanish from the backend" in told.stderr


def test_jobs_of_a_run_whose_ledger_is_gone_are_let_go(
    run, small_tree, sqlite_url, killed_in, tmp_path, no_ledger_left
):
    killed_in("_follow", recheck_seconds=0.5)  # not before the drain is over
    for left in (tmp_path / "tmp").iterdir():
        left.unlink()

    told = run("demo", str(small_tree), "--url", sqlite_url)

    assert told.exit_code == 0
    rows = check_all_is_accounted_for(told.output, small_tree)
    assert number(rows["Strangers"]) >= 5


def test_a_folder_that_changes_between_the_runs(
    run, small_tree, sqlite_url, killed_in, no_ledger_left
):
    killed_in("_perform")
    (small_tree / "5" / "5.txt").unlink()
    (small_tree / "6" / "6.txt").unlink()
    (small_tree / "7" / "7.txt").unlink()
    os.mkfifo(small_tree / "7" / "7.txt")
    (small_tree / "new.txt").write_text("new")

    told = run("demo", str(small_tree), "--url", sqlite_url)

    assert told.exit_code == 0
    assert "1 files are new, and were added" in told.output
    assert shown(told.output)["Files"] == (
        "28 of 31 read, 3 gone or unreadable when their jobs ran"
    )


def test_rechecks_see_a_file_that_changes_meanwhile(run, small_tree, monkeypatch):
    noted = conductor.Conductor._note

    def change_a_file(self, letter):
        for path in walk.walk(small_tree, []).paths[:2]:
            (small_tree / path).write_text("changed")
        noted(self, letter)

    # The dead letter comes after the first reading, and before the first recheck is due.
    monkeypatch.setattr(conductor.Conductor, "_note", change_a_file)
    monkeypatch.setattr(command, "RECHECK_SECONDS", 0.3)

    told = run("demo", str(small_tree))

    assert told.exit_code == 0
    assert shown(told.output)["Scheduled rechecks"] == "5 of 5, 2 found changed"


def test_an_empty_folder(run, tmp_path):
    (tmp_path / "empty").mkdir()

    told = run("demo", str(tmp_path / "empty"))

    assert told.exit_code == 0
    rows = shown(told.output)
    assert rows["Files"] == "0 of 0 read"
    assert rows["Scheduled rechecks"] == "0 of 0"
    assert rows["Their lateness"] == "none has run"
    assert rows["Dead letters"] == "1"


def test_the_current_directory_with_the_database_in_it(run, small_tree, monkeypatch):
    monkeypatch.chdir(small_tree)

    told = run("demo", "--url", "sqlite:///jobs.db")

    assert told.exit_code == 0
    assert (small_tree / "jobs.db").exists()
    (small_tree / "jobs.db").unlink()
    check_all_is_accounted_for(told.output, small_tree)


@pytest.mark.parametrize("durable", [False, True])
def test_ctrl_c_drains_and_says_what_is_left(
    run, small_tree, sqlite_url, monkeypatch, durable, counts
):
    perform = conductor.Conductor._perform

    async def perform_and_interrupt(self):
        await perform(self)
        os.kill(os.getpid(), signal.SIGINT)

    url = sqlite_url if durable else "simple://"
    with monkeypatch.context() as patched:
        patched.setattr(command, "RECHECK_SECONDS", 0.5)  # not before the drain is over
        patched.setattr(conductor.Conductor, "_perform", perform_and_interrupt)
        told = run("demo", str(small_tree), "--url", url)

    assert told.exit_code == 3
    (left,) = re.findall(r"^Stopped.*? (\d+) jobs", told.output, re.MULTILINE)
    assert int(left) >= 5
    assert "is lost unless" not in told.output  # not one line for each
    if durable:
        held = [state for states in counts().values() for state in states.items()]
        assert sum(number for state, number in held if state != "dead") == int(left)
        assert ("dead", 1) in held
        assert "The same command goes on with them" in told.output
        again = run("demo", str(small_tree), "--url", url)
        assert again.exit_code == 0
        rows = check_all_is_accounted_for(again.output, small_tree)
        assert number(rows["Recovered"]) == int(left)
        assert number(rows["Repeats"]) == 0
    else:
        assert "are lost" in told.output


def test_two_at_the_same_time(run, small_tree, sqlite_url):
    digest = ledger.digest_of(small_tree, offload.config.parse_address(sqlite_url))
    other = ledger.Ledger(ledger.ledger_path(digest))

    told = run("demo", str(small_tree), "--url", sqlite_url)

    other.close()
    assert told.exit_code == 1
    assert "another demo reads this folder on this backend" in told.stderr


def test_a_damaged_ledger(run, small_tree, sqlite_url):
    digest = ledger.digest_of(small_tree, offload.config.parse_address(sqlite_url))
    path = ledger.ledger_path(digest)
    path.write_text("no database " * 100)

    told = run("demo", str(small_tree), "--url", sqlite_url)

    assert told.exit_code == 1
    assert f"{path} can't be used" in told.stderr


def test_on_a_terminal_a_bar_moves_and_no_color_is_heeded(small_tree, tmp_path):
    with ThreadPoolExecutor() as threads:
        coloured = threads.submit(on_terminal, small_tree, tmp_path)
        plain = on_terminal(small_tree, tmp_path, NO_COLOR="1")
        told = coloured.result()

    assert "\x1b[?25l" in told, "no live screen"
    assert re.search(r"\d+ running +[\d,]+ a second", told)
    assert re.search(r"\x1b\[[\d;]*38;", told), "no colours"
    assert "\x1b[?25l" in plain
    assert not re.search(r"\x1b\[[\d;]*3[0-9]", plain)


def on_terminal(folder: Path, cwd: Path, **env: str) -> str:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "offload", "demo", str(folder)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=cwd,
        env={**os.environ, "TERM": "xterm-256color", **env},
    ) as process:
        os.close(theirs)
        told = b""
        try:
            while piece := os.read(ours, 65536):
                told += piece
        except OSError:
            pass  # how the end of a terminal is told on Linux
        os.close(ours)
    assert process.returncode == 0
    return told.decode()


class Killed(BaseException):
    """Stands in for a kill at one exact point."""


def killed(*_: object) -> None:
    raise Killed
