"""The page of the contract is what the registry says."""

from __future__ import annotations

from pathlib import Path

from offload_conformance.contract import page
from offload_conformance.rules import RULES

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_is_up_to_date():
    """If not: python -m offload_conformance.contract > docs/contract.md."""
    assert (DOCS / "contract.md").read_text() == page()


def test_every_rule_has_an_id_of_its_own():
    assert len(RULES) == len({rule.text for rule in RULES.values()})
