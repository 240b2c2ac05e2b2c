"""The certificate, and the verdicts in it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from histories import Story

from offload_conformance import certificate, verification
from offload_conformance.verdicts import Verdict, judge, worst

PASSING = Story().accepted("a").started("a").ended("a").checked("each_once")
STRUCK = (
    Story()
    .accepted("a")
    .started("a")
    .tell("fault", kind="kill")
    .tell("fault_hit", kind="kill", running=["a"])
    .started("a", 2)
    .checked("attempts", tag="a", expected=[1, 2])
)
MISSED = Story().tell("fault", kind="kill").checked("equal", what="x", expected=1, actual=1)
FAILING = Story().accepted("a").checked("each_once")


def make(folder: Path) -> Path:
    tests = {
        "PERF-2": [certificate.make_record("test_PERF_2_once", 0.1, PASSING)],
        "DUR-2": [certificate.make_record("test_DUR_2_killed", 0.1, STRUCK)],
        "DUR-1": [certificate.make_record("test_DUR_1_kill", 0.1, MISSED)],
        "PERF-1": [certificate.make_record("test_PERF_1_id", 0.1, FAILING)],
    }
    made = certificate.make_certificate("simple://", tests, profile="full", complete=True)
    return certificate.write(made, folder)


def test_every_rule_has_the_verdict_of_its_tests(tmp_path):
    content = json.loads(make(tmp_path).read_text())
    verdicts = {rule["id"]: rule["verdict"] for rule in content["rules"]}
    assert verdicts["PERF-2"] == verdicts["DUR-2"] == "pass"
    assert verdicts["DUR-1"] == "unknown"
    assert verdicts["PERF-1"] == "fail"
    assert verdicts["LIFE-1"] == "unverified"
    assert not content["certified"]
    assert content["digest"] == certificate.digest_of(content)


@pytest.mark.parametrize(
    ("profile", "complete", "why"),
    [
        ("quick", True, "no test of it in the quick profile"),
        ("selected", True, "no test of it in the selected profile"),
        ("quick", False, "no test of it has run: the run was cut short"),
    ],
)
def test_why_a_rule_without_a_test_is_not_verified(profile, complete, why):
    made = certificate.make_certificate("simple://", {}, profile=profile, complete=complete)
    assert {(rule.verdict, *rule.reasons) for rule in made.rules} == {("unverified", why)}


def test_reasons_that_are_not_those_of_the_tests_are_found(tmp_path):
    content = json.loads(make(tmp_path).read_text())
    (rule,) = [rule for rule in content["rules"] if rule["id"] == "PERF-1"]
    assert rule["reasons"]
    rule["reasons"] = ["it was the weather"]
    content["digest"] = certificate.digest_of(content)
    (tmp_path / "forged.json").write_text(json.dumps(content))
    told = verification.differences(*verification.read(tmp_path / "forged.json"))
    assert "PERF-1: its reasons aren't those of its tests" in told


# -- verdicts ----------------------------------------------------------------------


def test_a_history_without_a_check_proves_nothing():
    assert judge(Story()) == (Verdict.UNKNOWN, ["nothing was checked"])
    assert judge(Story().accepted("a").started("a"))[0] is Verdict.UNKNOWN


def test_a_fault_that_hit_nothing_proves_nothing():
    assert judge(MISSED) == (Verdict.UNKNOWN, ["the fault 'kill' hit nothing"])


def test_what_failed_is_not_covered_up_by_a_fault_that_missed():
    story = Story().tell("fault", kind="kill").accepted("a").checked("each_once")
    assert judge(story)[0] is Verdict.FAIL


def test_a_failure_outside_the_checks_fails():
    assert judge(Story(PASSING).tell("failed", when="call", text="boom")) == (
        Verdict.FAIL,
        ["boom"],
    )


def test_what_is_not_claimed_or_not_verified():
    assert judge(Story().tell("not_claimed", claim="durable")) == (
        Verdict.NOT_CLAIMED,
        ["durable"],
    )
    assert judge(Story().tell("unverified", why="no server")) == (
        Verdict.UNVERIFIED,
        ["no server"],
    )


def test_the_worst_of_several_tests():
    assert worst([]) is Verdict.UNVERIFIED
    assert worst([Verdict.PASS, Verdict.NOT_CLAIMED]) is Verdict.PASS
    assert worst([Verdict.NOT_CLAIMED, Verdict.NOT_CLAIMED]) is Verdict.NOT_CLAIMED
    assert worst([Verdict.PASS, Verdict.UNKNOWN, Verdict.UNVERIFIED]) is Verdict.UNKNOWN
    assert worst([Verdict.UNKNOWN, Verdict.FAIL, Verdict.PASS]) is Verdict.FAIL
