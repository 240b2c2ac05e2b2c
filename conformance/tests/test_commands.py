"""The commands of the kit, as an author uses them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "offload", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


def test_an_unknown_rule_is_a_slip_of_the_user(tmp_path):
    done = run("certify", "simple://", "--rule", "time-99", cwd=tmp_path)
    assert done.returncode == 2
    assert "there is no rule time-99; did you mean TIME-" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_bad_option_in_the_url_is_told_before_anything_runs(tmp_path):
    done = run("certify", "simple://?concurency=4", cwd=tmp_path)
    assert done.returncode == 2
    assert "did you mean 'concurrency'" in done.stderr
    assert not list(tmp_path.iterdir())


def test_one_rule_is_told_alone_and_leaves_the_certificate_of_all_alone(tmp_path):
    (tmp_path / "simple.json").write_text("precious")
    done = run("certify", "simple://", "--rule", "PERF-2", "--rule", "DUR-1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {"PERF-2: pass", "DUR-1: not claimed"} <= set(done.stderr.splitlines())
    assert "1 of 2 rules passed (selected)" in done.stdout
    assert "LIFE-1" not in done.stdout
    assert (tmp_path / "simple.json").read_text() == "precious"
    written = json.loads((tmp_path / "simple-selected.json").read_text())
    assert not written["certified"]
    assert run("verify", "simple-selected.json", cwd=tmp_path).returncode == 0


def test_a_soak_of_a_backend_that_is_away_is_told_so_at_once(tmp_path):
    done = run("soak", "redis://127.0.0.1:1", "--jobs", "10", "--seconds", "1", cwd=tmp_path)
    assert done.returncode == 1
    assert "redis://127.0.0.1:1 is away" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_interrupted_leaves_what_it_has_tested(tmp_path, sent):
    command = (sys.executable, "-m", "offload", "certify", "simple://")
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if ": pass" in line:
                break
        process.send_signal(sent)
        told = process.stderr.read()
        assert process.wait(60) == 1
    assert "interrupted: the certificate is partial" in told
    content = json.loads((tmp_path / "simple-partial.json").read_text())
    verdicts = {rule["verdict"] for rule in content["rules"]}
    assert verdicts <= {"pass", "unverified", "not claimed"} and "pass" in verdicts
    (untested,) = {tuple(r["reasons"]) for r in content["rules"] if not r["tests"]}
    assert untested == ("no test of it has run: the run was cut short",)
    assert run("verify", "simple-partial.json", cwd=tmp_path).returncode == 0


def test_why_a_rule_is_not_verified_is_told(tmp_path):
    done = run("certify", "bare://", "--rule", "DUR-1", "--rule", "PERF-2", "--quick", cwd=tmp_path)
    written = json.loads((tmp_path / "bare-selected.json").read_text())
    reasons = {rule["id"]: rule["reasons"] for rule in written["rules"]}
    assert reasons["LIFE-1"] == ["no test of it in the selected profile"]
    assert reasons["PERF-2"] == []
    assert "not claimed" in done.stdout


def test_every_call_to_the_driver_is_traced(tmp_path):
    url = f"sqlite:///{tmp_path}/jobs.db"
    rules = ("--rule", "DUR-1", "--rule", "PERF-1", "--rule", "DEAD-1", "--quick")
    done = run("certify", url, *rules, "--trace-driver", "trace.jsonl", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "trace.jsonl").read_text().splitlines()]
    calls = {line["call"] for line in lines}
    assert {"open", "enqueue", "subscribe", "fetch", "settle", "list_dead", "close"} <= calls
    assert len({line["pid"] for line in lines}) > 1  # the workers that are killed, too
    stored = [line for line in lines if line["call"] == "enqueue"]
    assert all(" Entry, " in line["arguments"][0] for line in stored)
    assert {line["outcome"] for line in stored} == {"None"}
    assert all(line["ms"] >= 0 for line in lines)


def test_an_adapter_without_a_driver_has_none_to_trace(tmp_path, monkeypatch):
    monkeypatch.setenv("OFFLOAD_MUTANT", "WholeWorker")
    done = run("certify", "mutant://", "--trace-driver", "trace.jsonl", cwd=tmp_path)
    assert done.returncode == 2
    assert "is a worker, and has no driver to trace" in " ".join(done.stderr.split())
    assert not list(tmp_path.iterdir())
