"""An adapter states what it can't keep; it is certified but for that, and not for everything."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from offload_conformance.deviations import (
    CORE,
    CORE_OF_DURABLE,
    LONGEST,
    STATABLE,
    faults_of,
)
from offload_conformance.rules import RULES

MODULE = """
    import dataclasses
    import offload, offload_{base} as base

    @offload.hookimpl
    def offload_adapter(scheme):
        return dataclasses.replace(base.ADAPTER, deviations={deviations!r})
"""
WHOLE_SECONDS = "the scheduler counts whole seconds"
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run a command where an adapter `odd` is installed that states these deviations."""

    def run(
        deviations: dict[str, str], *arguments: str, base: str = "simple"
    ) -> subprocess.CompletedProcess[str]:
        site = tmp_path / "site"
        info = site / "odd-1.2.3.dist-info"
        info.mkdir(parents=True, exist_ok=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: odd\nVersion: 1.2.3\n")
        (info / "entry_points.txt").write_text("[offload.adapters]\nodd = odd_adapter\n")
        code = textwrap.dedent(MODULE).format(base=base, deviations=deviations)
        (site / "odd_adapter.py").write_text(code)
        return subprocess.run(
            [sys.executable, "-m", "offload", *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )

    return run


def test_a_rule_of_a_deviation_is_not_tested_and_told_everywhere(run, tmp_path):
    stated = {"TIME-10": WHOLE_SECONDS}
    done = run(stated, "certify", "odd://", "--rule", "TIME-10", "--rule", "PERF-2")
    assert done.returncode == 0, done.stderr
    assert f"it deviates from TIME-10: {WHOLE_SECONDS}" in done.stdout

    path = tmp_path / "odd-selected.json"
    content = json.loads(path.read_bytes())
    assert content["deviations"] == stated
    verdicts = {rule["id"]: rule["verdict"] for rule in content["rules"]}
    assert (verdicts["TIME-10"], verdicts["PERF-2"]) == ("not claimed", "pass")
    (test,) = next(rule["tests"] for rule in content["rules"] if rule["id"] == "TIME-10")
    assert test["reasons"] == [f"the adapter states: {WHOLE_SECONDS}"]
    assert [event["name"] for event in test["history"]] == ["not_claimed"]
    assert run(stated, "verify", str(path)).returncode == 0

    assert f"deviates from TIME-10: {WHOLE_SECONDS}" in run(stated, "adapters").stdout
    by_scheme = {a["scheme"]: a for a in json.loads(run(stated, "adapters", "--json").stdout)}
    assert by_scheme["odd"]["deviations"] == stated
    assert by_scheme["simple"]["deviations"] == {}


@pytest.mark.parametrize(
    ("base", "stated", "told"),
    [
        ("simple", {"TIME-99": "too hard"}, "deviates from TIME-99, and there is no such rule"),
        ("simple", {"TIME-10": "  "}, "deviates from TIME-10 without a reason"),
        ("simple", {"PERF-2": "hard"}, "no adapter may deviate from PERF-2"),
        ("sqlite", {"PERF-8": "hard"}, "claims durable may not deviate from PERF-8"),
        ("sqlite", {"DUR-2": "hard"}, "belongs to the claim durable"),
    ],
)
def test_what_may_not_be_stated_is_told_before_anything_runs(run, tmp_path, base, stated, told):
    url = "odd://" if base == "simple" else f"odd:///{tmp_path}/jobs.db"
    done = run(stated, "certify", url, "--rule", "TIME-3", base=base)
    assert done.returncode == 1
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("*.json"))


def test_nor_does_an_authors_own_suite_run_with_it(run, tmp_path):
    (tmp_path / "conftest.py").write_text(
        "import pytest\n\n@pytest.fixture\ndef offload_url():\n    return 'odd://'\n"
    )
    (tmp_path / "test_odd.py").write_text("from offload_conformance.suite import *\n")
    run({"PERF-2": "hard"}, "adapters")  # installs it
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rule", "REG-1", "."],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1, done.stdout
    assert "no adapter may deviate from PERF-2" in done.stdout


def test_the_guide_tells_the_rules_of_the_core():
    guide = (Path(__file__).parents[2] / "docs" / "run-the-kit.md").read_text()
    (_, table) = guide.split("| who | may not deviate from |")
    anyone, durable, *_ = table.splitlines()[2:]
    assert set(re.findall(r"[A-Z]+-\d+", anyone)) == set(CORE)
    assert set(re.findall(r"[A-Z]+-\d+", durable)) == set(CORE_OF_DURABLE)


DURABLE = {"fifo": True, "durable": True, "distributed": True, "dead_letters": True}
IN_MEMORY = dict.fromkeys(DURABLE, False)


@pytest.mark.parametrize("rule", [*CORE, *CORE_OF_DURABLE])
def test_no_durable_adapter_deviates_from_the_core(rule):
    assert rule in RULES
    assert list(faults_of({rule: "hard"}, DURABLE))
    assert bool(list(faults_of({rule: "hard"}, IN_MEMORY))) is (rule in CORE)


@pytest.mark.parametrize("rule", [rule.id for rule in RULES.values() if rule.claim])
@pytest.mark.parametrize("claims", [DURABLE, IN_MEMORY], ids=["claimed", "not claimed"])
def test_a_rule_of_a_claim_is_no_deviation(rule, claims):
    is_fine = rule in STATABLE and claims is DURABLE
    assert bool(list(faults_of({rule: "hard"}, claims))) is not is_fine


@pytest.mark.parametrize("reason", ["a\nb", "\x1b[32mfine", "x" * (LONGEST + 1), "", "\u202e"])
def test_a_reason_is_one_line_of_text(reason):
    assert list(faults_of({"TIME-10": reason}, DURABLE))
    assert not list(faults_of({"TIME-10": WHOLE_SECONDS}, DURABLE))
