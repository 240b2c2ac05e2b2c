"""Forged certificates, with a digest that fits: each is refused, for its own reason."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from forging import (
    TRIVIAL,
    Content,
    checks,
    dropped,
    excuse,
    keep,
    record_of,
    records,
    renumber,
    rule,
    set_to,
    settle,
    told_of,
    trivial,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import convert

from offload_conformance.certificate import Certificate, digest_of
from offload_conformance.commands import verify
from offload_conformance.evidence import table
from offload_conformance.suite import __all__ as tests_of_the_kit
from offload_conformance.verification import MAX_BYTES, differences

pytestmark = pytest.mark.xdist_group("a whole certificate")


@pytest.fixture(scope="module")
def genuine_text(genuine: Content) -> str:
    return json.dumps(genuine)


ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.just([]), st.just({})
)


ONCE = "test_PERF_2_each_job_runs_once"
LATE = "test_TIME_2_hardly_late_when_idle"


# -- forgeries -----------------------------------------------------------------------


def all_not_claimed(c: Content) -> None:
    for test in records(c):
        excuse(c, test, "durable is not claimed")
    settle(c)


def a_hard_rule_not_claimed(c: Content) -> None:
    for test in rule(c, "TIME-1")["tests"]:
        excuse(c, test, "fifo is not claimed")
    settle(c)


def a_claim_excused(c: Content) -> None:
    for test in rule(c, "FIFO-1")["tests"]:
        excuse(c, test, "fifo is not claimed")
    settle(c)


def an_excuse_of_ones_own(c: Content) -> None:
    excuse(c, record_of(c, ONCE), "it can't apply")
    settle(c)


def a_claim_dropped(c: Content) -> None:
    c["claims"]["durable"] = True


def trivial_everywhere(c: Content) -> None:
    for test in records(c):
        trivial(test)
    settle(c)


def trivial_once(c: Content) -> None:
    trivial(record_of(c, ONCE))


def history_of_another(c: Content) -> None:
    source = record_of(c, "test_PERF_3_perform_waits_for_no_handler")
    record_of(c, ONCE).update(history=copy.deepcopy(source["history"]), seconds=source["seconds"])


def a_rule_twice(c: Content) -> None:
    c["rules"].insert(3, copy.deepcopy(c["rules"][3]))


def a_rule_added(c: Content) -> None:
    c["rules"].append({**copy.deepcopy(c["rules"][0]), "id": "LIFE-99"})


def rules_swapped(c: Content) -> None:
    c["rules"][0], c["rules"][1] = c["rules"][1], c["rules"][0]


def numbers_zero(c: Content) -> None:
    for event in record_of(c, ONCE)["history"]:
        event["number"] = 0


def checks_at_zero(c: Content) -> None:
    for event in record_of(c, ONCE)["history"]:
        if event["name"] == "check":
            event["number"] = 0


def checks_first(c: Content) -> None:
    test = record_of(c, LATE)
    test["history"].sort(key=lambda event: event["name"] != "check")
    renumber(test)


def a_check_gone(c: Content) -> None:
    keep(record_of(c, LATE), lambda e: e["what"].get("check") != "late_at_most")


def runs_gone(c: Content) -> None:
    keep(record_of(c, ONCE), lambda e: e["name"] not in ("started", "ended"))


def most_of_it_gone(c: Content) -> None:
    test = record_of(c, "test_FIFO_1_in_the_order_of_the_performs")
    keep(test, lambda e: e["name"] not in ("accepted", "started", "ended") or e["number"] % 8 == 1)


def a_bound_loosened(c: Content) -> None:
    for what in checks(record_of(c, LATE), "late_at_most"):
        what["limit_ms"] = 1e9


def a_share_loosened(c: Content) -> None:
    for what in checks(record_of(c, "test_PERF_9_woken_by_its_own_process"), "began_within"):
        what["share"] = 0.1


def a_limit_loosened(c: Content) -> None:
    c["limits"]["lateness"] = "1h"


def expectations_changed(c: Content) -> None:
    for what in checks(record_of(c, "test_LIFE_1_the_state_can_be_read"), "equal"):
        what["expected"] = what["actual"] = "new"


def strangers_ran(c: Content) -> None:
    for event in record_of(c, ONCE)["history"]:
        if event["name"] == "accepted":
            event["what"]["ids"] = []


def back_in_time(c: Content) -> None:
    history = record_of(c, ONCE)["history"]
    history[1]["at"] = history[-1]["at"] + 1


def before_it_began(c: Content) -> None:
    for event in record_of(c, LATE)["history"]:
        if event["name"] == "started":
            event["wall_ms"] -= 86_400_000


def before_the_beginning(c: Content) -> None:
    for event in record_of(c, ONCE)["history"]:
        event["at"] -= 1e6
        event["wall_ms"] -= 1e9


def took_no_time(c: Content) -> None:
    record_of(c, ONCE)["seconds"] = 0.0001 + record_of(c, ONCE)["seconds"] + 5


def failure_renamed(c: Content) -> None:
    test = record_of(c, ONCE)
    event = {**test["history"][-1], "name": "failed", "what": {"when": "call", "text": "boom"}}
    test["history"].append(event)
    renumber(test)


def fault_that_hit_nothing(c: Content) -> None:
    test = record_of(c, ONCE)
    test["history"].insert(0, {**test["history"][0], "name": "fault", "what": {"kind": "kill"}})
    renumber(test)


def a_verdict_of_ones_own(c: Content) -> None:
    record_of(c, ONCE)["verdict"] = "brilliant"


def reasons_of_ones_own(c: Content) -> None:
    record_of(c, ONCE)["reasons"] = ["very good"]


def not_verified(c: Content) -> None:
    test = record_of(c, ONCE)
    test["history"].append({**test["history"][-1], "name": "unverified", "what": {"why": "no"}})
    renumber(test)


def too_many_checks(c: Content) -> None:
    test = record_of(c, ONCE)
    last = test["history"][-1]
    test["history"] += [{**last, "name": "check", "what": dict(TRIVIAL)} for _ in range(5000)]
    renumber(test)


def unknown_check(c: Content) -> None:
    checks(record_of(c, ONCE), "equal")[0]["check"] = "__import__"


def check_without_its_parameters(c: Content) -> None:
    what = checks(record_of(c, ONCE), "equal")[0]
    what.clear()
    what["check"] = "began_within"


def events_without_their_parts(c: Content) -> None:
    for event in record_of(c, ONCE)["history"]:
        if event["name"] in ("started", "ended"):
            event["what"] = {}


def ids_that_are_objects(c: Content) -> None:
    for event in record_of(c, ONCE)["history"]:
        if event["name"] in ("started", "ended"):
            event["what"]["id"] = {"a": 1}


def certified_in_part(**changed: Any) -> Callable[[Content], None]:
    return lambda content: content.update(changed, certified=True)


def beginnings_gone(c: Content) -> None:
    keep(record_of(c, LATE), lambda event: event["name"] != "started")


def without_some_tests(c: Content) -> None:
    for each in c["rules"]:
        del each["tests"][1:]


def all_tests_dropped(c: Content) -> None:
    rule(c, "TIME-1")["tests"] = []


def a_test_moved(c: Content) -> None:
    rule(c, "PERF-3")["tests"].append(rule(c, "PERF-2")["tests"].pop(0))
    settle(c)


FORGED: dict[str, tuple[Callable[[Content], None], str]] = {
    "every rule is not claimed": (all_not_claimed, "is no excuse for it"),
    "a rule of all is not claimed": (a_hard_rule_not_claimed, "is no excuse for it"),
    "a claim is made, and excused": (a_claim_excused, "against its own claims"),
    "an excuse of one's own": (an_excuse_of_ones_own, "is no excuse for it"),
    "a claim more than was tested": (a_claim_dropped, "against its own claims"),
    "a claim that there is not": (
        set_to("claims", "exactly_once", value=True),
        "its claims aren't",
    ),
    "a claim less than was tested": (
        set_to("claims", "fifo", value=False),
        "of what isn't claimed",
    ),
    "no scheme": (set_to("adapter", "scheme", value=""), "which adapter"),
    "no versions": (set_to("versions", value={}), "which versions"),
    "events before it began": (before_the_beginning, "before it began"),
    "a claim is missing": (dropped("claims", "fifo"), "its claims aren't"),
    "one trivial check for each test": (trivial_everywhere, "is missing"),
    "one trivial check for one test": (trivial_once, "is missing"),
    "the history of another test": (history_of_another, "fewer than the test makes"),
    "the words of a rule": (set_to("rules", 0, "text", value="Nothing."), "its words aren't"),
    "the claim of a rule": (set_to("rules", 0, "claim", value="durable"), "its words aren't"),
    "the id of a rule": (set_to("rules", 0, "id", value="CONF-77"), "aren't those of the contract"),
    "a rule is missing": (dropped("rules", 5), "aren't those of the contract"),
    "a rule is there twice": (a_rule_twice, "aren't those of the contract"),
    "a rule of one's own": (a_rule_added, "aren't those of the contract"),
    "two rules are swapped": (rules_swapped, "aren't those of the contract"),
    "no rule at all": (set_to("rules", value=[]), "aren't those of the contract"),
    "all events are number 0": (numbers_zero, "numbered in order"),
    "checks are number 0": (checks_at_zero, "numbered in order"),
    "checks come before what they check": (checks_first, "go back in time"),
    "a check is missing": (a_check_gone, "is missing"),
    "no job has run": (runs_gone, "proves fail"),
    "an eighth of the jobs have run": (most_of_it_gone, "proves fail"),
    "a bound is loosened": (a_bound_loosened, "is missing"),
    "a share is loosened": (a_share_loosened, "is missing"),
    "a limit is loosened afterwards": (a_limit_loosened, "is missing"),
    "something else was expected": (expectations_changed, "is missing"),
    "jobs ran that were never performed": (strangers_ran, "proves fail"),
    "events go back in time": (back_in_time, "go back in time"),
    "runs at another day": (before_it_began, "clocks disagree"),
    "it took another time": (took_no_time, "by its words"),
    "a failure is on record": (failure_renamed, "proves fail"),
    "a fault that hit nothing": (fault_that_hit_nothing, "proves unknown"),
    "a verdict that there is not": (a_verdict_of_ones_own, "is no verdict"),
    "reasons for a pass": (reasons_of_ones_own, "says pass, proves pass"),
    "it was not verified": (not_verified, "proves unverified"),
    "thousands of checks": (too_many_checks, "more than 1000 checks"),
    "a check that there is not": (unknown_check, "proves fail"),
    "a check without its parameters": (check_without_its_parameters, "can't be judged"),
    "events without their parts": (events_without_their_parts, "can't be judged"),
    "ids that are objects": (ids_that_are_objects, "can't be judged"),
    "tests are left out": (without_some_tests, "is missing"),
    "a rule without tests": (all_tests_dropped, "says pass, proves unverified"),
    "a test of another rule": (a_test_moved, "the kit has no test"),
    "a test by another name": (
        set_to("rules", 0, "tests", 0, "name", value="test_CONF_1_fine"),
        "the kit has no test",
    ),
    "certified in a shorter profile": (certified_in_part(profile="quick"), "claims to certify"),
    "certified for some rules": (certified_in_part(profile="selected"), "claims to certify"),
    "certified though cut short": (certified_in_part(complete=False), "claims to certify"),
    "a profile that there is not": (set_to("profile", value="best"), "its profile is"),
    "a format to come": (set_to("format", value=2), "its format is 2"),
    "no deadline": (dropped("environment", "deadline"), "gave up waiting"),
    "a deadline that is no time": (
        set_to("environment", "deadline", value="for ever"),
        "gave up waiting",
    ),
    "no adapter": (set_to("adapter", value={}), "which adapter"),
    "a size of one's own": (set_to("limits", "max_job_bytes", value="9"), "is missing"),
    "a longest delay of one's own": (set_to("limits", "max_delay", value="1h"), "is missing"),
    "runs without their beginnings": (beginnings_gone, "a run ended that never began"),
    "a limit that is no time": (set_to("limits", "lateness", value="soon"), "not a time"),
    "no lateness": (set_to("limits", "lateness", value="-"), "not a time"),
    "a limit below zero": (set_to("limits", "max_delay", value="-5s"), "not a time"),
    "a size that is no number": (set_to("limits", "max_job_bytes", value="big"), "not a number"),
    "a limit is missing": (dropped("limits", "recovery"), "its limits aren't"),
    "a limit of one's own": (set_to("limits", "speed", value="9"), "its limits aren't"),
}
assert len(FORGED) > 50


def write(path: Path, content: Content) -> Path:
    content["digest"] = digest_of(content)
    path.write_text(json.dumps(content))
    return path


def told(path: Path) -> tuple[int, str]:
    result = CliRunner().invoke(verify, [str(path)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def test_the_genuine_one_is_verified(genuine, tmp_path):
    assert genuine["certified"]
    assert told(write(tmp_path / "a.json", genuine))[0] == 0


@pytest.mark.parametrize(("forge", "reason"), FORGED.values(), ids=FORGED)
def test_a_forgery_is_refused(genuine_text, forge, reason):
    found = told_of(genuine_text, forge)
    assert any(reason in each for each in found), found[:20]


def draw_place(content: Content, data: st.DataObject) -> tuple[Any, Any]:
    """A list or an object somewhere in it, and one of its keys."""
    place: Any = content
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        is_leaf = not isinstance(place[key], dict | list) or not place[key]
        if is_leaf or data.draw(st.integers(0, 9)) == 0:
            return place, key
        place = place[key]


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_edit_without_a_new_digest_is_refused(genuine_text, tmp_path, data):
    content: Content = json.loads(genuine_text)
    place, key = draw_place(content, data)
    new = data.draw(ODD.filter(lambda new: (type(new), new) != (type(place[key]), place[key])))
    place[key] = new
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert told(tmp_path / "a.json")[0] in (1, 2)


MALFORMED = {
    "nothing": b"",
    "no JSON": b"certified",
    "binary": bytes(range(256)),
    "cut short": b'{"format": 1, "adapter": {',
    "a list": b"[]",
    "null": b"null",
    "another object": b'{"format": 1}',
    "nested deeply": b'{"a":' * 100_000,
    "arrays nested deeply": b"[" * 1_000_000,
    "a key twice": b'{"format": 1, "format": 1}',
    "no number": b'{"format": NaN}',
    "an endless number": b'{"format": Infinity}',
    "a million lists": b'{"format": [' + b"[]," * 1_000_000 + b"[]]}",
    "a number of 5,000 digits": b'{"format": ' + b"9" * 5000 + b"}",
    "text that is not UTF-8": b'{"format": "\xff"}',
    "a lone surrogate": b'{"format": "\\ud800"}',
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
def test_what_is_no_certificate_is_told_in_one_line(tmp_path, data):
    path = tmp_path / "a.json"
    path.write_bytes(data)
    code, output = told(path)
    assert code == 2
    assert "not a certificate" in output
    assert len(output.splitlines()) == 1


def test_a_device_is_no_certificate():
    assert told(Path("/dev/zero")) == (2, "/dev/zero: not a certificate: it is no regular file\n")


def test_a_huge_file_is_not_even_read(tmp_path):
    path = tmp_path / "a.json"
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    assert told(path) == (2, f"{path}: not a certificate: it has more than 32 MiB\n")


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_nothing_in_it_makes_it_fail_otherwise(genuine_text, tmp_path, data):
    """Any value in any place: it is refused, or it was of no matter, and never a traceback."""
    content: Content = json.loads(genuine_text)
    place, key = draw_place(content, data)
    place[key] = data.draw(ODD)
    try:
        path = write(tmp_path / "a.json", content)
    except (ValueError, UnicodeEncodeError):
        return
    assert told(path)[0] in (0, 1, 2)


def test_its_time_is_that_of_its_size(genuine_text):
    """Four times the events take less than eight times as long, whatever they are."""

    def seconds(factor: int) -> float:
        content: Content = json.loads(genuine_text)
        for test in records(content):
            test["history"] *= factor
            renumber(test)
        content["digest"] = digest_of(content)
        parsed = convert(content, type=Certificate)
        begin = time.perf_counter()
        differences(parsed, content)
        return time.perf_counter() - begin

    assert seconds(4) < 8 * seconds(1) + 0.5


def test_every_test_of_the_kit_is_in_the_table():
    """Regenerate it with `python -m offload_conformance.evidence`, from all certificates."""
    in_table = {name.partition("[")[0] for name in table()}
    assert in_table == set(tests_of_the_kit)
