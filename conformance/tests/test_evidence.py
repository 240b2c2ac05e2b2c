"""The table asks of an adapter what all of its kind have on record, and nothing else."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from histories import Story

from offload_conformance.evidence import Evidence, Record, kind_of, lacks, make_table

NAME = "test_PERF_2_each_job_runs_once"
CLAIMS = {"fifo": False, "durable": False, "distributed": False, "dead_letters": False}
LIMITS = {
    "max_job_bytes": "1000",
    "max_delay": "1h",
    "lateness": "20ms",
    "recovery": "-",
    "reconnect": "-",
}


def jobs(count: int) -> Story:
    story = Story()
    for number in range(count):
        story.accepted("a", str(number)).started("a", job=str(number))
    return story


def certificate(
    history: Story, *claims: str, verdict: str = "pass", **limits: str
) -> dict[str, Any]:
    test = {"name": NAME, "verdict": verdict, "history": msgspec.to_builtins(list(history))}
    return {
        "claims": {**CLAIMS, **dict.fromkeys(claims, True)},
        "limits": {**LIMITS, **limits},
        "rules": [{"id": "PERF-2", "tests": [test]}],
    }


def evidence(*certificates: dict[str, Any]) -> Evidence:
    return make_table(certificates)[NAME]


def missing(found: Evidence, history: Story, *claims: str, **limits: str) -> list[str]:
    limits = {**LIMITS, **limits}
    kind = kind_of({**CLAIMS, **dict.fromkeys(claims, True)}, limits)
    return list(lacks(Record(history, limits, kind), found))


def test_what_all_have_is_asked_of_all():
    found = evidence(certificate(jobs(4)), certificate(jobs(4), "durable"))
    assert missing(found, jobs(4)) == missing(found, jobs(5), "fifo") == []
    assert missing(found, jobs(3)) == ["3 events 'accepted' are fewer than the test makes"]


def test_events_that_come_from_elsewhere_may_be_fewer():
    found = evidence(certificate(jobs(4)), certificate(jobs(4)))
    late = Story([event for event in jobs(4) if event.number != 7])
    assert missing(found, late) == []
    assert missing(found, Story(e for e in jobs(4) if e.name != "started")) != []


def test_where_a_fault_strikes_a_call_more_may_fail():
    struck = jobs(4).tell("fault", kind="cut")
    found = evidence(certificate(struck), certificate(struck))
    assert missing(found, jobs(3).tell("fault", kind="cut")) == []


READ = {"what": "its error", "expected": 1, "actual": 1}


@pytest.fixture
def of_two_kinds() -> Evidence:
    looked = jobs(1).checked("equal", **READ)
    return evidence(
        certificate(jobs(1)),
        certificate(jobs(1), "fifo"),
        certificate(looked, "dead_letters"),
        certificate(looked, "dead_letters", "fifo"),
    )


def test_what_a_kind_has_is_asked_of_that_kind(of_two_kinds):
    assert missing(of_two_kinds, jobs(1)) == missing(of_two_kinds, jobs(1), "fifo") == []
    for claims in (("dead_letters",), ("dead_letters", "fifo")):
        assert "the check equal is missing" in missing(of_two_kinds, jobs(1), *claims)
        assert missing(of_two_kinds, jobs(1).checked("equal", **READ), *claims) == []


def test_of_a_kind_that_the_table_does_not_know_less_is_asked(of_two_kinds):
    assert missing(of_two_kinds, jobs(1), "dead_letters", "durable") == []


def test_what_differs_within_a_kind_or_stands_alone_is_chance():
    looked = jobs(1).checked("equal", **READ)
    found = evidence(certificate(looked, "fifo"), certificate(jobs(1), "fifo"))
    assert missing(found, jobs(1), "fifo") == []
    found = evidence(certificate(looked, "fifo"), certificate(jobs(1)))
    assert missing(found, jobs(1), "fifo") == []


def test_a_limit_of_ones_own_is_asked_for_and_not_that_of_others():
    def within(ms: float) -> Story:
        return jobs(1).checked("began_within", tag="a", limit_ms=ms)

    found = evidence(*(certificate(within(20.0), claim) for claim in ("fifo", "durable")))
    assert missing(found, within(500.0), lateness="500ms") == []
    assert any("1 of lateness" in told for told in missing(found, within(500.0)))


def test_how_many_reports_tell_of_many_runs_is_a_matter_of_speed():
    def tallied(times: int) -> Story:
        story = jobs(1)
        for number in range(times):
            story.tell("tallied", ids=[str(number)])
        return story

    found = evidence(certificate(tallied(100)), certificate(tallied(80)))
    assert missing(found, tallied(1)) == []
    assert missing(found, tallied(0)) == ["0 events 'tallied' are fewer than the test makes"]


def test_who_has_more_states_of_releases_than_others_asks_no_more_of_these():
    def taken_over(states: int) -> Story:
        story = Story()
        for number in range(states):
            story.tell("laid", number=number).accepted("a", f"{number}").started("a")
            story.checked("taken_over", laid=number, requeued=[])
            story.checked("equal", **READ)
        return story

    found = evidence(certificate(taken_over(1)), certificate(taken_over(4)))
    assert missing(found, taken_over(1)) == missing(found, taken_over(3)) == []
    found = evidence(certificate(taken_over(4)), certificate(taken_over(4)))
    assert missing(found, taken_over(1)) == []
    less = Story(each for each in taken_over(2) if each.name != "accepted")
    assert "0 events 'accepted' are fewer than the test makes" in missing(found, less)
