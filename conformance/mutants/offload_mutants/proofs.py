"""Writes what proves each rule: `python -m offload_mutants.proofs > docs/proofs.md`.

Of each rule, the tests of the kit, and the broken adapters that show that these can fail.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator

from offload_conformance.evidence import table
from offload_conformance.rules import CHAPTERS, Rule
from offload_mutants.registry import VARIANTS, Variant

INTRODUCTION = """\
# What proves the contract

This page is generated: each rule of [the contract](contract.md), the tests of the kit that prove
it, and the broken adapters (`conformance/mutants`) that these tests must find. A test is named for
its rule; what it must have on record before it proves it is in the kit's table of evidence. A
broken adapter is told by its slip, and by what it is made of: `simple` in memory, `sqlite` a
file, `net` a server in a process of its own, `bare` a library with a loop of its own, `sql` a file
again, in plain SQL.
"""


def page() -> str:
    """The page, in Markdown."""
    tests, mutants = tests_by_rule(), mutants_by_rule()
    parts = [INTRODUCTION]
    for chapter in CHAPTERS:
        parts.append(f"\n## {chapter.key}: {chapter.title}\n")
        for rule in chapter.rules:
            parts += _rule(rule, tests[rule.id], mutants[rule.id])
    return "".join(parts)


def tests_by_rule() -> defaultdict[str, set[str]]:
    """The names of the kit's tests, as a sentence each."""
    found = defaultdict[str, set[str]](set)
    for name, evidence in table().items():
        prefix = f"test_{evidence.rule.replace('-', '_')}_"
        found[evidence.rule].add(name.partition("[")[0].removeprefix(prefix).replace("_", " "))
    return found


def mutants_by_rule() -> defaultdict[str, list[Variant]]:
    """The broken adapters by the rule that each names."""
    found = defaultdict[str, list[Variant]](list)
    for variant in VARIANTS.values():
        if variant.breaks is not None:
            found[variant.breaks].append(variant)
    return found


def _rule(rule: Rule, tests: set[str], mutants: list[Variant]) -> Iterator[str]:
    yield f"\n### {rule.id}\n\n{rule.text}\n\n"
    yield from (f"- test: {name}\n" for name in sorted(tests))
    for variant in sorted(mutants, key=lambda each: each.name):
        story = " ".join(variant.story.split())
        yield f"- broken (`{variant.base}`): {story}\n"


if __name__ == "__main__":
    sys.stdout.write(page())
