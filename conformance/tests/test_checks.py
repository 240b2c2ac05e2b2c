"""Each check passes a history that keeps it, and tells of one that breaks it."""

from __future__ import annotations

from typing import Any

import pytest
from histories import Story

from offload_conformance.checks import CHECKS, broken, vacuous

Case = tuple[str, dict[str, Any], Story, Story, str]
"""The check with its parameters, a history that keeps it, one that breaks it, what is told."""


def S() -> Story:  # noqa: N802
    return Story()


def refused(*errors: str) -> Story:
    return S().tell("refused", call="c", errors=list(errors), text="too bad")


def stop(story: Story) -> Story:
    return story.tell("stopped", call="stop", worker="w")


def twice() -> Story:
    return (
        S().started("a").ended("a", how="ValueError").started("a", 2).ended("a", 2, how="OSError")
    )


LAID = {
    "number": 0,
    "workers": ["w"],
    "laid_ms": 0,
    "within_ms": 60_000,
    "slack_ms": 50,
    "dead": [],
    "jobs": [{"id": "a", "tag": "a", "queue": "q", "attempt": 2, "due_in_ms": 0, "args": {}}],
}


def ran(story: Story, attempt: int) -> Story:
    story.started("a", attempt)[-1].what.update(queue="q", args=None)
    return story


def dead(story: Story, attempts: int) -> Story:
    return story.tell("dead_letter", id="a", tag="a", attempts=attempts)


CASES: list[Case] = [
    ("equal", {"what": "x", "expected": 1, "actual": 1}, S(), None, ""),
    ("equal", {"what": "x", "expected": 1, "actual": 2}, None, S(), "x: expected 1, got 2"),
    ("equal", {"what": "x", "expected": 1, "actual": True}, None, S(), "got True"),
    ("contains", {"what": "x", "part": "a", "actual": "cat"}, S(), None, ""),
    ("contains", {"what": "x", "part": "b", "actual": "cat"}, None, S(), "'b' in 'cat'"),
    ("lacks", {"what": "x", "part": "b", "actual": "cat"}, S(), None, ""),
    ("lacks", {"what": "x", "part": "a", "actual": "cat"}, None, S(), "must not be in it"),
    ("at_most", {"what": "x", "limit": 2, "actual": 2}, S(), None, ""),
    ("at_most", {"what": "x", "limit": 2, "actual": 2.5}, None, S(), "over the limit of 2"),
    ("at_most", {"what": "x", "limit": 2, "actual": float("nan")}, None, S(), "over"),
    ("at_least", {"what": "x", "limit": 2, "actual": 2}, S(), None, ""),
    ("at_least", {"what": "x", "limit": 2, "actual": 1.5}, None, S(), "under the limit of 2"),
    ("raised", {"call": "c", "error": "A"}, refused("B", "A"), refused("B"), "expected A, got B"),
    ("raised", {"call": "c", "error": "A"}, None, S(), "never answered"),
    (
        "raised",
        {"call": "c", "error": "A"},
        None,
        refused("A").tell("returned", call="c"),
        "nothing was raised",
    ),
    (
        "refusal_names",
        {"call": "c", "part": "bad"},
        refused("A"),
        S().tell("refused", call="c", errors=["A"], text="no"),
        "expected 'bad'",
    ),
    ("each_once", {}, S().accepted("a").started("a"), S().accepted("a"), "ran 0 times"),
    ("each_once", {}, None, S().accepted("a").started("a").started("a", 2), "ran 2 times"),
    ("each_once", {}, None, S().started("a"), "never accepted"),
    ("each_once", {}, None, S().accepted("a", "1", "1").started("a", job="1"), "given twice"),
    ("each_once", {"tag": "b"}, S().accepted("a"), S().accepted("b"), "ran 0 times"),
    ("each_ran", {}, S().accepted("a").started("a").started("a", 2), S().accepted("a"), "never"),
    ("each_ran", {}, None, S().started("a"), "never accepted"),
    ("each_accepted_ran", {}, S().started("a"), S().accepted("a"), "accepted and never ran"),
    (
        "taken_over",
        {"laid": 0, "requeued": []},
        ran(S().tell("laid", **LAID), 2),
        ran(S().tell("laid", **LAID), 1),
        "a: expected the runs [2], got [1]",
    ),
    ("never_ran", {"tag": "a"}, S().started("b"), S().started("a"), "must not have"),
    (
        "attempts",
        {"tag": "a", "expected": [1, 2]},
        S().started("a").started("b").started("a", 2),
        S().started("a", 2).started("a", 1),
        "expected [1, 2], got [2, 1]",
    ),
    (
        "in_order",
        {"tags": ["a", "b"]},
        S().started("a").started("b").started("a", 2),
        S().started("b").started("a"),
        "got ['b', 'a']",
    ),
    ("in_order", {"tags": ["a", "b"]}, None, S().started("a"), "got ['a']"),
    (
        "most_at_once",
        {"limit": 1},
        S().started("a").ended("a").started("b"),
        S().started("a").started("b"),
        "2 handlers ran at once",
    ),
    (
        "ran_at_once",
        {"count": 2},
        S().started("a").started("b"),
        S().started("a").ended("a").started("b"),
        "only 1 handlers",
    ),
    (
        "wait_between",
        {"tag": "a", "attempt": 1, "least_ms": 500},
        S().started("a", at=0).ended("a", at=0.1).started("a", 2, at=0.6),
        S().started("a", at=0).ended("a", at=0.1).started("a", 2, at=0.599),
        "came after 499.0 ms",
    ),
    (
        "wait_between",
        {"tag": "a", "attempt": 1, "least_ms": 0},
        None,
        S().started("a"),
        "didn't both run",
    ),
    (
        "no_attempt_before",
        {"tag": "a", "least_ms": 500},
        S().started("a"),
        S().started("a", at=0).started("a", 2, at=0.4),
        "came after 400.0 ms",
    ),
    (
        "never_early",
        {},
        S().accepted("a", due=1).accepted("b").started("b").started("a", at=1),
        S().accepted("a", due=1).started("a", at=0.9),
        "100.00 ms before it was due",
    ),
    (
        "never_early",  # a job may run before its perform has returned
        {},
        S().started("a", at=1).accepted("a", due=1),
        S().started("a", at=0.9).accepted("a", due=1),
        "100.00 ms before it was due",
    ),
    (
        "in_order_of_performs",
        {},
        S().accepted("a").started("a").accepted("b").accepted("c").started("b").started("c"),
        S().accepted("a").accepted("b").accepted("c").started("a").started("c").started("b"),
        "job number 1 began after number 2, as 3 of 3",
    ),
    (
        "in_order_of_performs",  # a second run has no place in it
        {},
        S().accepted("a").accepted("b").started("a").started("b").started("a", attempt=2),
        S().accepted("a").accepted("b").started("b"),
        "1 of 2 jobs never ran",
    ),
    (
        "again_before",
        {"tag": "a", "others": "b"},
        S().accepted("a").accepted("b").started("a").started("a").started("b"),
        S().accepted("a").accepted("b").started("a").started("b").started("a"),
        "1 jobs of b began before a began again",
    ),
    (
        "again_before",
        {"tag": "a", "others": "b"},
        None,
        S().accepted("a").accepted("b").started("a").started("b"),
        "1 runs of a began, not two for each of its jobs",
    ),
    (
        "late_at_most",
        {"limit_ms": 100},
        S().accepted("a", due=1).started("a", at=1.1),
        S().accepted("a", due=1).started("a", at=1.2),
        "50% were up to 200.0 ms late",
    ),
    (
        "late_at_most",
        {"limit_ms": 100, "share": 0.8},
        S().accepted("a", due=1).accepted("b", due=1).started("a", at=1).started("b", at=1.1),
        S().accepted("a", due=1).accepted("b", due=1).started("a", at=1).started("b", at=1.2),
        "80% were up to 200.0 ms late",
    ),
    ("late_at_most", {"limit_ms": 100}, None, S().accepted("a", due=1), "no scheduled job ran"),
    (
        "late_at_most",
        {"limit_ms": 100, "share": 1.0},
        S().accepted("a", due=1).accepted("b", due=9).started("a", at=1),
        S().accepted("a", due=1).accepted("b", due=1).started("a", at=1).tell("mark", at=3),
        "100% were up to 2000.0 ms late",
    ),
    (
        "due_as_asked",
        {"slack_ms": 1},
        S().accepted("a", due=5).started("a", due=5.0005),
        S().accepted("a", due=5).started("a", due=4.9),
        "-100.00 ms",
    ),
    ("due_as_asked", {"slack_ms": 1}, None, S().accepted("a", due=5).started("a", due=6), "+1000"),
    ("due_as_asked", {}, S().accepted("a", due=5).started("a", due=9), None, ""),
    (
        "began_within",
        {"tag": "a", "limit_ms": 100},
        S().accepted("a").started("a", at=0.1),
        S().accepted("a").started("a", at=0.2),
        "50% began within 200.0 ms, over 100 ms",
    ),
    (
        "began_within",
        {"tag": "a", "limit_ms": 100, "share": 0.9},
        S().accepted("a").started("a", at=0.1),
        S().accepted("a").started("a", at=0.2),
        "90% began within 200.0 ms, over 100 ms",
    ),
    ("began_within", {"tag": "a", "limit_ms": 100}, None, S().accepted("b"), "0 of 0 jobs of a"),
    (
        "began_within",
        {"tag": "a", "limit_ms": 100},
        None,
        S().accepted("a", "1").accepted("a", "2").started("a", job="1", at=0.1),
        "1 of 2 jobs of a ran",
    ),
    (
        "began_within",
        {"tag": "a", "limit_ms": 100, "slack_ms": 50},
        S().accepted("a").started("a", at=0.15),
        S().accepted("a").started("a", at=0.16),
        "over 150 ms",
    ),
    (
        "dead_had_its_runs",
        {"max_attempts": 2},
        dead(twice(), 2),
        dead(S().started("a").ended("a", how="ValueError"), 1),
        "is dead after the attempts [1], of 2",
    ),
    ("dead_had_its_runs", {"max_attempts": 2}, None, dead(twice(), 3), "tells of 3 attempts"),
    ("dead_had_its_runs", {"max_attempts": 2}, None, twice(), "there is no dead letter"),
    ("dead_had_its_runs", {"max_attempts": 2}, None, dead(S(), 0), "after the attempts []"),
    (
        "dead_had_its_runs",
        {"max_attempts": 2},
        dead(S().started("a").ended("a", how="Reject"), 1),
        dead(twice().started("a", 3).ended("a", 3, how="Reject"), 3),
        "after the attempts [1, 2, 3], of 2",
    ),
    (
        "dead_had_its_runs",
        {"max_attempts": 1, "tag": "b"},
        None,
        dead(S().started("a"), 1),
        "there is no dead letter",
    ),
    (
        "soon_among_others",
        {"tag": "a", "limit": 1},
        S().started("b").accepted("a").started("c").started("a"),
        S().accepted("a").started("b").started("c").started("a"),
        "2 other runs began before a",
    ),
    ("soon_among_others", {"tag": "a", "limit": 1}, None, S().accepted("a"), "no job of a ran"),
    (
        "arrived",
        {},
        S().tell("performed", id="1", spelt="{}").tell("received", id="1", spelt="{}"),
        S().tell("performed", id="1", spelt="{1}").tell("received", id="1", spelt="{2}"),
        "arrived …{2}…",
    ),
    ("arrived", {}, None, S().tell("performed", id="1", spelt="{}"), "never arrived"),
    (
        "stored_as_told",
        {},
        S()
        .tell("told", tag="a", maybe_stored=True)
        .started("a")
        .tell("told", tag="b", maybe_stored=False),
        S().tell("told", tag="a", maybe_stored=False).started("a"),
        "a raised, and not as maybe stored",
    ),
    (
        "lasted",
        {"tag": "a", "least_s": 1},
        S().started("a", at=0).ended("a", at=1),
        S().started("a", at=0).ended("a", at=0.5),
        "took 0.500 s",
    ),
    ("lasted", {"tag": "a", "least_s": 1}, None, S().started("a"), "no run of a began and ended"),
    (
        "recovered_within",
        {"tag": "a", "limit_s": 5},
        S()
        .accepted("a")
        .started("a")
        .tell("fault", kind="kill", worker="w")
        .started("a", 2, at=4)
        .tell("fault_hit", kind="kill", running=["a"]),
        S()
        .accepted("a")
        .started("a")
        .tell("fault", at=3, kind="kill", worker="w")
        .tell("fault_hit", kind="kill", running=["a"])
        .started("a", 2, at=9),
        "ran again after 6.00 s",
    ),
    (
        "recovered_within",
        {"tag": "a", "limit_s": 5},
        None,
        S()
        .accepted("a")
        .started("a")
        .tell("fault", kind="kill", worker="w")
        .tell("fault_hit", kind="kill", running=[]),
        "cut short and never ran again",
    ),
    (
        "recovered_within",
        {"tag": "a", "limit_s": 5},
        None,
        S().accepted("a").tell("fault", kind="kill", worker="w"),
        "nothing of a was running",
    ),
    ("recovered_within", {"tag": "a", "limit_s": 5}, None, S().accepted("a"), "nothing was killed"),
    (
        "ran_on",
        {"tag": "a", "worker": "v", "least": 1},
        S().started("a", on="v"),
        S().started("a", on="w"),
        "v ran 0 jobs of a, not 1",
    ),
    (
        "tallied_once",
        {"tag": "a"},
        S().accepted("a", "1", "2").tell("tallied", ids=["2"]).tell("tallied", ids=["1"]),
        S().accepted("a", "1", "2").tell("tallied", ids=["1", "1"]),
        "job 1 ran 2 times",
    ),
    ("tallied_once", {"tag": "a"}, None, S().tell("tallied", ids=["1"]), "never accepted"),
    (
        "all_ended_before",
        {"call": "stop"},
        stop(S().started("a").ended("a")),
        stop(S().started("a")),
        "a was still running",
    ),
    ("all_ended_before", {"call": "stop"}, None, S(), "never returned"),
    (
        "ended_as",
        {"tag": "a", "expected": ["returned"]},
        S().ended("a"),
        S().ended("a", how="ValueError"),
        "got ['ValueError']",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_a_check(case):
    name, what, kept, breaking, told = case
    if kept is not None:
        assert list(CHECKS[name](kept, **what)) == []
        assert broken(kept.checked(name, **what)) == []
    if breaking is not None:
        faults = list(CHECKS[name](breaking, **what))
        assert faults and any(told in fault for fault in faults), faults
        assert broken(breaking.checked(name, **what)) == faults


def test_every_check_is_tested_both_ways():
    kept = {name for name, _, story, _, _ in CASES if story is not None}
    told = {name for name, _, _, story, _ in CASES if story is not None}
    assert kept == told == set(CHECKS)


def test_a_check_sees_only_what_was_before_it():
    story = Story().accepted("a").checked("each_once").started("a")
    assert broken(story) == ["job a ran 0 times, not once"]


def test_a_check_that_nobody_knows_is_no_proof():
    assert broken(Story().checked("wishful")) == ["unknown check in event 0"]


def test_a_fault_must_hit_as_often_as_it_was_meant():
    story = Story().tell("fault", kind="kill").tell("fault", kind="kill")
    assert vacuous(story) == ["the fault 'kill' hit nothing"]
    assert vacuous(story.tell("fault_hit", kind="kill"))
    assert vacuous(story.tell("fault_hit", kind="freeze"))
    assert vacuous(story.tell("fault_hit", kind="kill")) == []
