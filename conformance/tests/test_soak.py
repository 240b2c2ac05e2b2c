"""What a soak concludes from what was written down."""

from __future__ import annotations

import pytest

from offload_conformance.soak.ledger import RUNS, Accepted, Ledger, outcome_of


@pytest.fixture
def ledger() -> Ledger:
    """Two accepted jobs, each done once."""
    ledger = Ledger(accepted={"a": Accepted(100, 100), "b": Accepted(200, 200)})
    ledger.read("one", ["started a 1 150", "done a 1 160", "started b 1 250", "done b 1 260"])
    return ledger


def test_all_is_right(ledger):
    outcome = outcome_of(ledger)
    assert outcome.is_right
    assert (outcome.accepted, outcome.done, outcome.runs, outcome.repeated) == (2, 2, 2, 0)


def test_what_is_neither_done_nor_dead_is_lost(ledger):
    ledger.accepted["c"] = Accepted(300, 300)
    assert outcome_of(ledger).lost == ["c"]
    assert not outcome_of(ledger).is_right
    ledger.dead.add("c")
    assert outcome_of(ledger).is_right


def test_a_run_that_never_ended_is_no_job_done(ledger):
    ledger.accepted["c"] = Accepted(300, 300)
    ledger.read("two", ["started c 1 310"])
    assert outcome_of(ledger).lost == ["c"]


def test_a_run_before_its_due_time_is_early(ledger):
    ledger.accepted["a"] = Accepted(151, 151)
    assert outcome_of(ledger).early == ["a"]
    assert not outcome_of(ledger).is_right


def test_a_run_too_many_must_be_explained(ledger):
    ledger.read("two", ["started a 2 500", "done a 2 510"])
    outcome = outcome_of(ledger)
    assert (outcome.repeated, outcome.unexplained) == (1, ["a"])
    assert not outcome.is_right


@pytest.mark.parametrize("killed", [150, 155, 300, 500])
def test_the_death_of_its_worker_explains_it(ledger, killed):
    ledger.read("two", ["started a 2 500", "done a 2 510"])
    ledger.worker_kills["one"] = (killed - 1, killed)
    assert outcome_of(ledger).is_right


@pytest.mark.parametrize(("worker", "killed"), [("one", 149), ("one", 512), ("two", 300)])
def test_another_death_does_not(ledger, worker, killed):
    ledger.read("two", ["started a 2 500", "done a 2 510"])
    ledger.worker_kills[worker] = (killed - 1, killed)
    assert outcome_of(ledger).unexplained == ["a"]


@pytest.mark.parametrize(
    ("begin", "end", "explains"), [(120, 155, 1), (300, 400, 1), (510, 600, 0)]
)
def test_the_death_of_the_backend_does(ledger, begin, end, explains):
    ledger.read("two", ["started a 2 500", "done a 2 510"])
    ledger.server_kills.append((begin, end))
    assert outcome_of(ledger).is_right == bool(explains)


@pytest.mark.parametrize(
    ("backend", "worker", "explains"),
    [((60, 70), None, 1), ((510, 520), None, 0), (None, (130, 140), 1), (None, (60, 70), 0)],
)
def test_a_scheduled_job_is_doubled_by_a_death_while_it_changes_hands(
    ledger, backend, worker, explains
):
    """The backend's, since it was performed; any worker's, since it was due."""
    ledger.accepted["a"] = Accepted(50, 120)
    ledger.read("two", ["started a 2 500", "done a 2 510"])
    if backend is not None:
        ledger.server_kills.append(backend)
    if worker is not None:
        ledger.worker_kills["three"] = worker
    outcome = outcome_of(ledger)
    assert outcome.is_right == bool(explains)
    assert outcome.explained == ({"a death while it changed hands": 1} if explains else {})


@pytest.mark.parametrize(
    ("worker", "killed", "explains"),
    [("two", 310, True), ("two", 450, True), ("two", 308, False), ("four", 450, False)],
)
def test_a_failed_job_is_doubled_by_a_death_while_it_changes_hands(
    ledger, worker, killed, explains
):
    """Both it and its retry are left: they run at once, or one after the other."""
    ledger.accepted["c"] = Accepted(300, 300)
    ledger.read("two", ["started c 1 305", "failed c 1 309"])
    ledger.read("three", ["started c 2 400", "done c 2 410"])
    ledger.read("four", ["started c 2 500", "done c 2 510"])
    ledger.worker_kills[worker] = (killed - 1, killed)
    outcome = outcome_of(ledger)
    assert outcome.is_right == explains
    assert outcome.explained.get("a death while it changed hands", 0) == explains


def test_a_job_that_nobody_accepted_needs_a_perform_of_unknown_outcome(ledger):
    ledger.read("one", ["started x 1 700", "done x 1 710"])
    assert not outcome_of(ledger).is_right
    ledger.unknown = 1
    assert outcome_of(ledger).is_right


def test_a_job_that_fails_each_time_has_all_its_runs(ledger):
    ledger.accepted["c"] = Accepted(300, 300)
    lines = [
        f"{mark} c {n} {300 + n}" for n in range(1, RUNS + 1) for mark in ("started", "failed")
    ]
    ledger.read("two", lines)
    ledger.dead.add("c")
    outcome = outcome_of(ledger)
    assert outcome.is_right
    assert (outcome.cut_short, outcome.explained) == (0, {"its failure": RUNS - 1})
    ledger.runs["c"].pop()
    assert outcome_of(ledger).cut_short == 1


def test_a_rejected_job_needs_one_run(ledger):
    ledger.accepted["c"] = Accepted(300, 300)
    ledger.read("two", ["started c 1 310", "rejected c 1 320"])
    ledger.dead.add("c")
    assert outcome_of(ledger).cut_short == 0
    ledger.read("two", ["started c 1 330"])
    assert outcome_of(ledger).unexplained == ["c"]


def test_a_dead_letter_that_never_ran_is_cut_short(ledger):
    ledger.accepted["c"] = Accepted(300, 300)
    ledger.dead.add("c")
    assert outcome_of(ledger).cut_short == 1
