"""The certificate: `verify` passes what was just made, and nothing that was touched since."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from histories import Story
from hypothesis import given, settings
from hypothesis import strategies as st

from offload_conformance import certificate
from offload_conformance.commands import verify
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


def is_verified(path: Path) -> bool:
    return CliRunner().invoke(verify, [str(path)]).exit_code == 0


def rewrite(path: Path, content: dict[str, Any], *, seal: bool = False) -> None:
    """Write it as edited; sealed, by somebody who knows how the digest is made."""
    path.write_text(json.dumps(content))
    if seal:
        import msgspec

        again = msgspec.json.decode(path.read_bytes(), type=certificate.Certificate)
        again.digest = certificate._digest(msgspec.to_builtins(again))
        path.write_bytes(msgspec.json.encode(again))


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("certificate"))


def test_a_fresh_certificate_is_verified(path):
    assert certificate.differences(path) == []
    assert is_verified(path)
    verdicts = {rule["id"]: rule["verdict"] for rule in json.loads(path.read_text())["rules"]}
    assert verdicts["PERF-2"] == verdicts["DUR-2"] == "pass"
    assert verdicts["DUR-1"] == "unknown"
    assert verdicts["PERF-1"] == "fail"
    assert verdicts["LIFE-1"] == "unverified"
    assert not json.loads(path.read_text())["certified"]


def leaves(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths to everything in a JSON value that is no list and no object."""
    if isinstance(value, dict):
        return [found for key, each in value.items() for found in leaves(each, (*at, key))]
    if isinstance(value, list):
        return [found for n, each in enumerate(value) for found in leaves(each, (*at, n))]
    return [at]


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_edit_of_a_single_value_is_verified(path, tmp_path_factory, data):
    content = json.loads(path.read_text())
    *way, last = data.draw(st.sampled_from(leaves(content)))
    place = content
    for key in way:
        place = place[key]
    old = place[last]
    new = st.one_of(st.text(), st.integers(), st.booleans(), st.none(), st.floats(0, 9))
    place[last] = data.draw(new.filter(lambda each: each != old or type(each) is not type(old)))
    edited = tmp_path_factory.getbasetemp() / "edited.json"
    rewrite(edited, content)
    assert not is_verified(edited)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_line_of_a_history_can_be_missing_or_moved(path, tmp_path_factory, data):
    content = json.loads(path.read_text())
    tests = [test for rule in content["rules"] for test in rule["tests"]]
    history = data.draw(st.sampled_from(tests))["history"]
    line = data.draw(st.integers(0, len(history) - 1))
    if data.draw(st.booleans()):
        del history[line]
    else:
        history.insert(data.draw(st.integers(0, len(history))), copy.copy(history[line]))
    edited = tmp_path_factory.getbasetemp() / "edited.json"
    rewrite(edited, content)
    assert not is_verified(edited)


@pytest.mark.parametrize("rule_id", ["PERF-2", "DUR-2", "DUR-1", "PERF-1", "LIFE-1"])
@pytest.mark.parametrize("verdict", list(Verdict))
def test_a_forged_verdict_is_found_even_with_a_new_digest(path, tmp_path, rule_id, verdict):
    content = json.loads(path.read_text())
    rule = next(rule for rule in content["rules"] if rule["id"] == rule_id)
    is_forged = rule["verdict"] != verdict
    rule["verdict"] = verdict
    for test in rule["tests"]:
        test["verdict"] = verdict
    edited = tmp_path / "edited.json"
    rewrite(edited, content, seal=True)
    assert is_verified(edited) is not is_forged


def test_it_can_not_claim_to_certify(path, tmp_path):
    content = json.loads(path.read_text())
    content["certified"] = True
    edited = tmp_path / "edited.json"
    rewrite(edited, content, seal=True)
    assert certificate.differences(edited) == ["it claims to certify what its verdicts don't"]


def test_a_rule_can_not_be_left_out(path, tmp_path):
    content = json.loads(path.read_text())
    del content["rules"][3]
    edited = tmp_path / "edited.json"
    rewrite(edited, content, seal=True)
    assert not is_verified(edited)


@pytest.mark.parametrize("content", ["", "{}", "[]", "null", '{"format": 1}'])
def test_what_is_no_certificate(tmp_path, content):
    path = tmp_path / "edited.json"
    path.write_text(content)
    assert certificate.differences(path)[0].startswith("it can't be read")


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
    assert worst([Verdict.PASS, Verdict.NOT_CLAIMED]) is Verdict.NOT_CLAIMED
    assert worst([Verdict.PASS, Verdict.UNKNOWN, Verdict.UNVERIFIED]) is Verdict.UNKNOWN
    assert worst([Verdict.UNKNOWN, Verdict.FAIL, Verdict.PASS]) is Verdict.FAIL
