"""The pages that are generated are what the registries say."""

from __future__ import annotations

from pathlib import Path

from offload_mutants import proofs

from offload_conformance.contract import page
from offload_conformance.rules import RULES

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_is_up_to_date():
    """If not: python -m offload_conformance.contract > docs/contract.md."""
    assert (DOCS / "contract.md").read_text() == page()


def test_the_page_of_proofs_is_up_to_date():
    """If not: python -m offload_mutants.proofs > docs/proofs.md."""
    assert (DOCS / "proofs.md").read_text() == proofs.page()


def test_every_rule_has_a_test_and_a_broken_adapter_that_it_finds():
    tests, mutants = proofs.tests_by_rule(), proofs.mutants_by_rule()
    assert [rule for rule in RULES if not tests[rule] or not mutants[rule]] == []


def test_every_rule_has_an_id_of_its_own():
    assert len(RULES) == len({rule.text for rule in RULES.values()})
