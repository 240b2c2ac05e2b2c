"""The matrix says what became of each variant, whatever that was."""

from __future__ import annotations

import multiprocessing
import os
import runpy

import pytest
from offload_mutants import matrix
from offload_mutants.registry import VARIANTS, Variant

MUTANT = VARIANTS["ForgetsWhenItIsKilled"]  # breaks DUR-3, and PERF-8 may fall with it
BENIGN = VARIANTS["KeepsJobsOnAServer"]


@pytest.mark.parametrize(
    ("row", "is_right", "told"),
    [
        (matrix.Row(MUTANT, ["DUR-3"]), True, "DUR-3    killed"),
        (matrix.Row(MUTANT, ["PERF-8", "DUR-3"]), True, "also: PERF-8"),
        (matrix.Row(MUTANT, ["PERF-8"]), False, "SURVIVED"),
        (matrix.Row(MUTANT, ["DUR-3", "REG-1"]), False, "STRAYED"),
        (matrix.Row(MUTANT, ["DUR-3", "REG-1"]), False, "UNRELATED: REG-1"),
        (matrix.Row(MUTANT, trouble="TIMED OUT: 300 s"), False, "TIMED OUT"),
        (matrix.Row(BENIGN), True, "benign   passed"),
        (matrix.Row(BENIGN, ["REG-1"]), False, "FALSE ALARM"),
        (matrix.Row(BENIGN, open=["REG-1"]), False, "OPEN: REG-1"),
        (matrix.Row(BENIGN, trouble="CRASHED: no"), False, "why: no"),
    ],
)
def test_a_row(row, is_right, told):
    assert row.is_right is is_right
    assert told in str(row)


@pytest.fixture
def run(tmp_path):
    """A run that is this program."""

    def run(program: str) -> multiprocessing.process.BaseProcess:
        path = tmp_path / "program.py"
        path.write_text(f"import os, subprocess\nos.setsid()\n{program}\n")
        context = multiprocessing.get_context("forkserver")
        return context.Process(target=runpy.run_path, args=(str(path),))

    return run


def test_a_kit_that_hangs_is_ended_with_all_that_it_started(run, tmp_path, monkeypatch):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    monkeypatch.setattr(matrix, "TIMEOUT", 2)

    trouble = matrix.end_of(
        run(f"subprocess.run('sleep 60 & sleep 60', shell=True, stdout=open({str(pipe)!r}, 'w'))")
    )

    assert trouble == "TIMED OUT: 2 s"
    os.set_blocking(reader, True)
    assert os.read(reader, 1) == b""  # nobody is left who holds it open
    os.close(reader)


def test_a_kit_that_writes_no_certificate(run):
    assert matrix.end_of(run("raise SystemExit(7)")) == "CRASHED: exit code 7"


def test_what_the_kit_said_last_is_told(monkeypatch):
    monkeypatch.setattr(matrix, "url_of", lambda variant, folder: "mutant://?nonsense=1")
    row = matrix.judge(BENIGN, matrix.runs(), full=False)

    assert row.trouble.startswith("CRASHED: exit code 1: ")
    assert "nonsense" in row.trouble


@pytest.fixture
def kit_says(monkeypatch):
    """Let the kit say of each variant what `fallen` says: the rules that failed."""

    def kit_says(fallen) -> None:
        def judge(variant, context, *, full):
            return matrix.Row(variant, fallen(variant))

        monkeypatch.setattr(matrix, "judge", judge)
        monkeypatch.setattr(os, "environ", os.environ.copy())  # which it sets for its runs

    return kit_says


def own_rule(variant: Variant) -> list[str]:
    return [variant.breaks] if variant.breaks else []


def test_every_rule_has_killed_two_mutants(kit_says):
    kit_says(own_rule)
    assert matrix.main([]) == 0


def test_a_rule_with_one_mutant_fails_the_whole_matrix(kit_says, monkeypatch, capsys):
    kit_says(own_rule)
    variants = [MUTANT, *(v for v in VARIANTS.values() if v.breaks != MUTANT.breaks)]
    monkeypatch.setattr(matrix, "VARIANTS", {variant.name: variant for variant in variants})
    assert matrix.main([]) == 1
    assert capsys.readouterr().out.endswith(f"fewer than {matrix.LEAST} mutants: DUR-3\n")
    assert matrix.main([MUTANT.name]) == 0  # which rules others prove isn't asked then


def test_an_unrelated_rule_that_fell_fails_the_matrix(kit_says):
    kit_says(lambda variant: [*own_rule(variant), "REG-1"])
    assert matrix.main([MUTANT.name]) == 1


def test_the_summary(capsys):
    matrix.show([matrix.Row(MUTANT, ["DUR-3", "PERF-8"]), matrix.Row(BENIGN)])
    lines = capsys.readouterr().out.splitlines()
    (dur,) = [line for line in lines if line.startswith("DUR")]
    (perf,) = [line for line in lines if line.startswith("PERF")]
    assert "3: 1+0" in dur and "8: 0+1" in perf
    assert lines[-1].startswith("1 mutants, 1 killed")
