"""Every promise has a proof: `promises.toml` is complete, true to the docstrings, and shown."""

from __future__ import annotations

import ast
import dataclasses
import enum
import functools

import msgspec
import promises
import pytest
from promises import EXPLAINS, ROOT, RULE, sentences

import offload
from offload_conformance.rules import RULES

TEXTS = promises.texts()
REGISTRY = promises.registry()


def test_every_sentence_has_a_proof_or_only_explains():
    """To mend it: put these rows into promises.toml, with a proof, and `"explains"` if need be."""
    missing = [
        promises.stub(name, sentence)
        for name, text in TEXTS.items()
        for sentence in sentences(text)
        if sentence not in REGISTRY.get(name, {})
    ]
    assert not missing, "\n".join(missing)


def test_no_row_is_left_of_a_sentence_that_is_gone():
    gone = [
        (name, sentence)
        for name, rows in REGISTRY.items()
        for sentence in rows
        if sentence not in sentences(TEXTS.get(name, ""))
    ]
    assert gone == []


@pytest.mark.parametrize("name", REGISTRY)
def test_every_proof_is_there(name):
    for sentence, proofs in REGISTRY[name].items():
        if proofs == EXPLAINS:
            continue
        assert isinstance(proofs, list), sentence
        assert proofs, sentence
        unknown = [proof for proof in proofs if proof not in RULES and proof not in all_tests()]
        assert unknown == [], sentence
        assert set(RULE.findall(sentence)) <= set(proofs), "a rule that it cites is none of them"


@functools.cache
def all_tests() -> set[str]:
    """The tests of the repository, by file and function."""
    folders = [ROOT / "tests", ROOT / "core/tests", ROOT / "conformance/tests"]
    folders += (ROOT / "adapters").glob("*/tests")
    return {
        f"{path.relative_to(ROOT).as_posix()}::{node.name}"
        for folder in folders
        for path in folder.rglob("test_*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
    }


def test_the_page_is_up_to_date():
    """If not: python core/tests/promises.py > docs/promises.md."""
    assert (ROOT / "docs/promises.md").read_text() == promises.page()


TEXT = """\
First: one, of two
lines. Second (with `code`).
`Third` one.

- an item. With two.
- another,
  longer one

Args:
    name: what it is.
        And more.
    other: said in
        two lines.

Raises:
    Error: at times.

The end.
"""


def test_sentences_are_told_apart():
    assert sentences(TEXT) == [
        "First: one, of two lines.",
        "Second (with `code`).",
        "`Third` one.",
        "an item.",
        "With two.",
        "another, longer one",
        "name: what it is.",
        "And more.",
        "other: said in two lines.",
        "Error: at times.",
        "The end.",
    ]


def fields_of(kind: type) -> list[str]:
    """What a type of values has in it; none, if it is another type."""
    if issubclass(kind, enum.Enum):
        return list(kind.__members__)
    if issubclass(kind, msgspec.Struct):
        return list(kind.__struct_fields__)
    if dataclasses.is_dataclass(kind):
        return [field.name for field in dataclasses.fields(kind)]
    return []


PUBLIC = [getattr(offload, name) for name in offload.__all__]
VALUES = [kind for kind in PUBLIC if isinstance(kind, type) and fields_of(kind)]


@pytest.mark.parametrize("kind", VALUES, ids=lambda kind: kind.__name__)
def test_help_tells_what_each_field_is(kind):
    """`help` shows the docstring of a class, and none that stands behind a field."""
    section = (kind.__doc__ or "").partition("Attributes:\n")[2].partition("\n\n")[0]
    items = [line.strip().partition(":") for line in section.splitlines()]
    described = [name for name, colon, text in items if colon and text and name.isidentifier()]
    assert described == fields_of(kind)
