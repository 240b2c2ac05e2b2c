"""One line for each error, and no password in any."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

CANARY = "canary-in-the-password"

VAULT = """
    import offload
    from offload.config import Option

    OPTIONS = (Option("token", "", str, secret=True),)

    class Driver:
        def __init__(self, config):
            self.config = config

        async def open(self):
            raise offload.BackendUnavailableError(f"{self.config} is away")

        async def enqueue(self, entries):
            raise AssertionError("never called: it can't be opened")

        subscribe = enqueue

        async def close(self):
            return ()
"""

UNSURE = VAULT.replace('is away")', 'is away", maybe_stored=True)')


def run_without(missing: str) -> subprocess.CompletedProcess[str]:
    """`python -m offload`, where a module can't be found."""
    code = (
        f"import sys, runpy; sys.modules[{missing!r}] = None; "
        "runpy.run_module('offload', run_name='__main__')"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


@pytest.mark.parametrize("missing", ["click", "rich", "pythonjsonlogger"])
def test_without_the_extra_it_says_what_to_install(missing):
    ended = run_without(missing)

    assert ended.returncode == 1
    assert ended.stderr.startswith(f"Error: the command line needs {missing}")
    assert "pip install 'offload-core[cli]'" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_what_else_is_missing_is_a_traceback():
    ended = run_without("sqlite3")

    assert "Traceback" in ended.stderr
    assert "sqlite3" in ended.stderr
    assert "offload-core[cli]" not in ended.stderr


def test_help_names_every_command(run):
    told = run("--help")

    assert told.exit_code == 0
    for command in ("adapters", "dead", "demo", "perform", "queues", "worker"):
        assert f"\n  {command} " in told.output


COMMAND = """
    import click

    @click.command()
    @click.argument("word")
    def command(word):
        "Say it."
        click.echo(f"it says {word}")
"""


def test_another_distribution_brings_a_command(run, distribution):
    distribution("extra", "extra", COMMAND, group="offload.commands", suffix=":command")

    assert re.search("extra +Say it.", run("--help").stdout)
    assert run("extra", "aloud").stdout == "it says aloud\n"


@pytest.mark.parametrize("fault", ["import no_such_module", "raise SystemExit(3)"])
def test_one_that_cannot_be_loaded_disturbs_no_other(run, distribution, fault):
    distribution("broken", "broken", fault, group="offload.commands")

    told = run("--help")
    assert told.exit_code == 0
    assert "(can't be loaded from broken" in told.stdout
    assert run("adapters").exit_code == 0

    told = run("broken", "--loud", "argument")
    assert told.exit_code == 1
    assert told.stderr.startswith("Error: command 'broken' can't be loaded from broken")
    assert fault.split()[-1] in told.stderr


def test_a_backend_that_is_away_is_one_line_and_exit_code_1(run, driver):
    driver("vault", VAULT)

    told = run("queues", "vault://host")

    # The driver can't count, which is known before anything connects.
    assert told.exit_code == 2
    assert told.stderr.count("\n") == 1

    told = run("perform", "vault://host", "greet")
    assert told.exit_code == 1
    assert told.stderr == "Error: vault://host is away\n"
    assert told.stdout == ""


@pytest.mark.parametrize(
    "command", [["queues"], *(["dead", verb] for verb in ("list", "show", "requeue", "discard"))]
)
def test_a_slip_in_a_path_makes_no_database(run, tmp_path, command):
    more = {"show": ["1"], "requeue": ["--all"], "discard": ["--all", "--yes"]}
    folder = tmp_path / "data"
    folder.mkdir()

    told = run(*command, f"sqlite:///{folder}/typo.db", *more.get(command[-1], []))

    assert told.exit_code == 1
    assert told.stderr == f"Error: {folder}/typo.db does not exist\n"
    assert list(folder.iterdir()) == []


def test_a_path_that_cannot_be_looked_at_is_the_adapters_to_report(run, tmp_path):
    (tmp_path / "file").touch()

    told = run("queues", f"sqlite:///{tmp_path}/file/jobs.db")

    assert told.exit_code == 1
    assert "can't be opened" in told.stderr


def test_it_says_when_the_job_may_have_been_stored(run, driver):
    driver("unsure", UNSURE)

    told = run("perform", "unsure://host", "greet")

    assert told.exit_code == 1
    assert told.stderr == (
        "Error: unsure://host is away (what was asked for may have been done all the same)\n"
    )


SECRET = f"vault://user:{CANARY}@host/0?token={CANARY}"


@pytest.mark.parametrize(
    "arguments",
    [
        ["perform", SECRET, "greet"],
        ["perform", "greet", SECRET],
        ["perform", "sqlite:///jobs.db", SECRET],
        ["perform", "sqlite:///jobs.db", "greet", "--queue", SECRET],
        ["perform", SECRET, "greet", "--in", SECRET],
        ["perform", SECRET, "greet", "--at", SECRET],
        ["perform", SECRET, "greet", "--args", SECRET],
        ["perform", SECRET],
        ["perform", f"{SECRET}&tokem={CANARY}", "greet"],
        ["perform", f"redis://user:{CANARY}@host", "greet"],
        ["perform", f"sqlite://user:{CANARY}@host/jobs.db", "greet"],
        ["queues", SECRET],
        ["queues", SECRET, SECRET],
        ["dead", "list", SECRET],
        ["dead", "list", SECRET, "--limit", SECRET],
        ["dead", "show", SECRET, "1"],
        ["dead", "requeue", SECRET, "--all"],
        ["dead", "discard", SECRET, "--all", "--yes"],
        ["dead", SECRET],
        ["demo", ".", "--url", SECRET],
        ["demo", SECRET],
        ["demo", ".", "--url", f"{SECRET}&queues=mine"],
        ["worker", SECRET],
        ["worker", "offload:connect", "--url", SECRET],
        [SECRET],
    ],
    ids=lambda arguments: " ".join(arguments).replace(SECRET, "SECRET").replace(CANARY, "CANARY"),
)
def test_no_command_prints_a_password(run, driver, arguments):
    driver("vault", VAULT)

    told = run(*arguments)

    assert told.exit_code in (1, 2)
    assert "Error: " in told.stderr
    assert CANARY not in told.output
    assert told.exception is None or CANARY not in str(told.exception)
