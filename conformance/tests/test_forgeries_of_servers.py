"""Forged certificates of an adapter that is durable and has a server: what they alone can forge."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from forging import (
    Content,
    checks,
    excuse,
    keep,
    record_of,
    records,
    renumber,
    rule,
    set_to,
    settle,
    told_of,
)

from offload_conformance.deviations import STATED

pytestmark = pytest.mark.xdist_group("a certificate of a server")

KILLED = "test_DUR_2_killed_inside_a_handler_it_runs_again"
OUTAGE = "test_DUR_3_a_kill_of_the_backend_loses_nothing"
LETTER = "test_FAIL_3_the_dead_letter_tells_why"
NO_SERVER = "the backend can't go away alone"


@pytest.fixture(scope="module")
def genuine_text(genuine_of_server: Content) -> str:
    return json.dumps(genuine_of_server)


def events(test: Content, *names: str) -> list[Content]:
    return [event for event in test["history"] if event["name"] in names]


def excused(*rules: str, why: str) -> Callable[[Content], None]:
    def change(c: Content) -> None:
        for rule_id in rules:
            for test in rule(c, rule_id)["tests"]:
                excuse(c, test, why)
        settle(c)

    return change


def all_of(*changes: Callable[[Content], None]) -> Callable[[Content], None]:
    def change(c: Content) -> None:
        for each in changes:
            each(c)

    return change


def stated(rule_id: str, reason: str = "too hard") -> Callable[[Content], None]:
    return all_of(
        set_to("deviations", value={rule_id: reason}),
        excused(rule_id, why=STATED + reason),
    )


# -- recovery ------------------------------------------------------------------------


def a_longer_recovery_with_its_bound(c: Content) -> None:
    """The bound is that of the claim, but the test would have waited for it to the end."""
    c["limits"]["recovery"] = "1h"


def the_second_run_much_later(c: Content) -> None:
    """It came after an hour; only the record of the first one says when."""
    test = record_of(c, KILLED)
    second = next(e for e in events(test, "started") if e["what"]["attempt"] == 2)
    for event in test["history"][second["number"] :]:
        event["at"] += 3600
        event["wall_ms"] += 3_600_000
        if "wall_ms" in event["what"]:
            event["what"]["wall_ms"] += 3_600_000
    test["seconds"] += 3600


def the_dead_run_it_again(c: Content) -> None:
    """The job is recovered by the process that was killed."""
    test = record_of(c, KILLED)
    (fault,) = events(test, "fault")
    for event in events(test, "started", "ended"):
        if event["number"] > fault["number"]:
            event["what"]["worker"] = fault["what"]["worker"]


def another_was_killed(c: Content) -> None:
    for event in events(record_of(c, KILLED), "fault"):
        event["what"]["worker"] = "worker-99"


def nobody_was_killed(c: Content) -> None:
    keep(record_of(c, KILLED), lambda event: event["name"] not in ("fault", "fault_hit"))


def killed_when_idle(c: Content) -> None:
    for event in events(record_of(c, KILLED), "fault_hit"):
        event["what"]["running"] = []


def recovered_as_a_first_attempt(c: Content) -> None:
    test = record_of(c, KILLED)
    for event in events(test, "started", "ended"):
        if event["what"]["tag"] == "cut":
            event["what"]["attempt"] = 1
    for what in checks(test, "attempts"):
        what["expected"] = [1, 1]


# -- what ran, and when --------------------------------------------------------------


def ended_before_it_began(c: Content) -> None:
    test = record_of(c, OUTAGE)
    (end, *_) = events(test, "ended")
    begin = next(e for e in events(test, "started") if e["what"]["id"] == end["what"]["id"])
    begin["name"], end["name"] = "ended", "started"
    begin["what"], end["what"] = end["what"], begin["what"]


def ended_twice(c: Content) -> None:
    test = record_of(c, OUTAGE)
    last = events(test, "ended")[-1]
    test["history"].insert(last["number"], json.loads(json.dumps(last)))
    renumber(test)


def a_second_run_under_another_tag(c: Content) -> None:
    """A job that ran twice hides its other run from checks of its tag."""
    test = record_of(c, OUTAGE)
    (first, *_) = [e for e in events(test, "started") if e["what"]["tag"] == "retrying"]
    first["what"]["tag"] = "fence-1"


def ran_before_it_was_performed(c: Content) -> None:
    """So late jobs come in time."""
    test = record_of(c, "test_DIST_6_woken_by_another_worker")
    for event in events(test, "started"):
        event["what"]["wall_ms"] -= 10_000


def told_long_after(c: Content) -> None:
    """So what comes before is in time, and what is early isn't."""
    test = record_of(c, "test_DIST_6_woken_by_another_worker")
    for event in events(test, "started", "accepted"):
        for key in ("wall_ms", "asked_ms"):
            if key in event["what"]:
                event["what"][key] -= 100_000


def told_before_it_was_so(c: Content) -> None:
    for event in events(record_of(c, OUTAGE), "started"):
        event["what"]["wall_ms"] += 5000


def the_late_ones_left_out(c: Content) -> None:
    """A quarter of the jobs began too late: they are taken out, whole."""
    test = record_of(c, "test_DIST_6_woken_by_another_worker")
    calls = [e for e in events(test, "accepted") if e["what"]["tag"] == "other"]
    late = {job_id for call in calls[::4] for job_id in call["what"]["ids"]}
    keep(
        test,
        lambda e: e["what"].get("id") not in late and not late & set(e["what"].get("ids", ())),
    )


def runs_of_the_late_ones_left_out(c: Content) -> None:
    test = record_of(c, "test_DIST_6_woken_by_another_worker")
    late = {e["what"]["id"] for e in events(test, "started")[::4]}
    keep(test, lambda e: e["what"].get("id") not in late)


# -- what was read -------------------------------------------------------------------


def a_letter_without_its_checks(c: Content) -> None:
    """All that was wrong with the dead letter is left out, as if none were claimed."""
    test = record_of(c, LETTER)
    wanted = ("left behind",)
    keep(test, lambda e: e["name"] != "check" or e["what"].get("what") in wanted)


def a_letter_of_one_run(c: Content) -> None:
    test = record_of(c, LETTER)
    for event in events(test, "dead_letter"):
        event["what"]["attempts"] = 1


def no_letter_at_all(c: Content) -> None:
    keep(record_of(c, LETTER), lambda event: event["name"] != "dead_letter")


def an_outage_without_end(c: Content) -> None:
    for what in checks(record_of(c, "test_PERF_8_it_never_hangs"), "at_most"):
        what["limit"] = what["actual"] = 3600.0


def a_slack_of_an_hour(c: Content) -> None:
    for what in checks(record_of(c, "test_LIFE_4_start_with_the_backend_away"), "at_most"):
        what["slack"] = 3600.0


def one_process_less(c: Content) -> None:
    test = record_of(c, "test_DIST_6_woken_by_another_process")
    keep(test, lambda event: event["name"] != "ready")


FORGED: dict[str, tuple[Callable[[Content], None], str]] = {
    "a server that can't go away": (excused("DUR-3", why=NO_SERVER), "against its own claims"),
    "nor where it is performed": (excused("PERF-8", why=NO_SERVER), "against its own claims"),
    "no reconnect, and yet a server was struck": (
        set_to("limits", "reconnect", value="-"),
        "it was tested, and yet",
    ),
    "durable is not claimed": (
        excused("DUR-2", why="durable is not claimed"),
        "against its own claims",
    ),
    "durable is taken back": (set_to("claims", "durable", value=False), "what isn't claimed"),
    "no bytes of strangers": (
        excused("FAIL-7", why="no bytes come from elsewhere"),
        "is no excuse for it",
    ),
    "no recovery": (set_to("limits", "recovery", value="-"), "must state its recovery"),
    "a longer recovery": (a_longer_recovery_with_its_bound, "is missing"),
    "recovered after an hour": (the_second_run_much_later, "proves fail"),
    "recovered by the dead": (the_dead_run_it_again, "after it was killed"),
    "another was killed": (another_was_killed, "proves fail"),
    "nobody was killed": (nobody_was_killed, "proves fail"),
    "killed when idle": (killed_when_idle, "hit nothing"),
    "recovered as a first attempt": (recovered_as_a_first_attempt, "is missing"),
    "ended before it began": (ended_before_it_began, "never began"),
    "ended twice": (ended_twice, "never began"),
    "a run under another tag": (a_second_run_under_another_tag, "another tag"),
    "ran before it was performed": (ran_before_it_was_performed, "before it was performed"),
    "told long after": (told_long_after, "tells of what was"),
    "told before it was so": (told_before_it_was_so, "tells of what was"),
    "late jobs are left out": (the_late_ones_left_out, "fewer than the test makes"),
    "late runs are left out": (runs_of_the_late_ones_left_out, "proves fail"),
    "a dead letter at which nobody looked": (a_letter_without_its_checks, "is missing"),
    "a dead letter of one run": (a_letter_of_one_run, "proves fail"),
    "no dead letter": (no_letter_at_all, "proves fail"),
    "an outage without end": (an_outage_without_end, "is missing"),
    "a slack of an hour": (a_slack_of_an_hour, "is missing"),
    "a process less": (one_process_less, "fewer than the test makes"),
    "a deviation from the core": (stated("PERF-8"), "may not deviate from PERF-8"),
    "a deviation from a claim": (stated("DUR-2"), "belongs to the claim durable"),
    "a deviation without a reason": (stated("LIFE-4", " "), "without a reason"),
    "a deviation that fakes a line": (stated("LIFE-4", "x\nsigned by me"), "one line"),
    "a deviation from nothing": (
        set_to("deviations", value={"LIFE-99": "too hard"}),
        "no such rule",
    ),
    "a deviation that isn't listed": (
        excused("LIFE-4", why=STATED + "too hard"),
        "lists no such deviation",
    ),
    "a deviation for another reason": (
        all_of(stated("LIFE-4"), excused("LIFE-4", why=STATED + "too slow")),
        "lists no such deviation",
    ),
    "a deviation, and another excuse": (
        all_of(stated("LIFE-4"), excused("LIFE-4", why=NO_SERVER)),
        "not the deviation",
    ),
    "a deviation that was kept": (
        set_to("deviations", value={"LIFE-4": "too hard"}),
        "says pass of a deviation",
    ),
}


def test_the_genuine_one_is_verified(genuine_text: str) -> None:
    assert told_of(genuine_text, lambda _: None) == []


def test_a_deviation_that_may_be_stated_is_verified(genuine_text: str) -> None:
    assert told_of(genuine_text, stated("LIFE-4", "a start takes a minute")) == []


@pytest.mark.parametrize(("forge", "reason"), FORGED.values(), ids=FORGED)
def test_a_forgery_is_refused(genuine_text: str, forge: Any, reason: str) -> None:
    found = told_of(genuine_text, forge)
    assert any(reason in each for each in found), found[:20]


def test_every_test_of_it_says_more_than_nothing(genuine_of_server: Content) -> None:
    assert all(len(test["history"]) > 3 for test in records(genuine_of_server))
