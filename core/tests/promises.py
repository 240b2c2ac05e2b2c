"""Every sentence that promises something, and what proves it: `promises.toml`, as a page.

    python core/tests/promises.py > docs/promises.md

The sentences are those of the docstrings of the modules that are the contract, and of what the
engine promises a driver. The registry gives for each, by the object that it stands at:

    ["offload.driver.Driver.open"]
    "Connect." = "explains"
    "After a failure, it may be called again." = ["core/tests/test_x.py::test_y", "LIFE-4"]

A proof is a rule of the contract, for which the kit has tests, or a test of this repository.
"""

from __future__ import annotations

import ast
import json
import re
import sys
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = ("driver", "worker", "job")
PAGE, HEADING = "docs/write-an-adapter.md", "What the engine promises a driver"
EXPLAINS = "explains"
"""Instead of proofs, for a sentence that promises nothing."""

SECTION = re.compile(r"^(Args|Attributes|Raises|Returns):$")
END = re.compile(r"(?<=[.!?])\s+(?=[A-Z`])")
RULE = re.compile(r"\b[A-Z]{2,4}-\d+\b")

INTRODUCTION = """\
# What proves the docstrings

This page is generated from `core/tests/promises.toml`: each sentence that promises something, in
the docstrings of `offload.driver`, `offload.worker` and `offload.job` and in
[what the engine promises a driver](write-an-adapter.md#what-the-engine-promises-a-driver), with
the rules of [the contract](contract.md) and the tests that would fail if it were false. What
proves each rule is [another page](proofs.md).
"""


def sentences(text: str) -> list[str]:
    """The sentences of a docstring, or of a text in Markdown, each in one line.

    An item of a list, or of a section such as `Raises:`, begins a sentence.
    """
    blocks: list[str] = []
    indent: int | None = None
    for line in text.expandtabs().splitlines():
        words, depth = line.strip(), len(line) - len(line.lstrip())
        if SECTION.match(line):
            indent = -1
            blocks.append("")
            continue
        if indent == -1:
            indent = depth
        elif words and depth == 0:
            indent = None
        if not words:
            blocks.append("")
        elif words.startswith("- ") or depth == indent:
            blocks.append(words.removeprefix("- "))
        else:
            blocks[-1:] = [f"{blocks[-1] if blocks else ''} {words}".strip()]
    return [each for block in blocks if block for each in END.split(block)]


def texts() -> dict[str, str]:
    """What has to be proved: the docstring of each public object by its name."""
    found: dict[str, str] = {}
    for name in SOURCES:
        tree = ast.parse((ROOT / f"core/src/offload/{name}.py").read_text())
        found |= dict(_docstrings(tree, f"offload.{name}"))
    section = (ROOT / PAGE).read_text().partition(f"## {HEADING}\n")[2].partition("\n## ")[0]
    found[f"{PAGE}: {HEADING}"] = section
    return {name: text for name, text in found.items() if text}


def _docstrings(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, name: str
) -> Iterator[tuple[str, str]]:
    yield name, ast.get_docstring(node) or ""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return
    before: ast.stmt | None = None
    for each in node.body:
        if isinstance(each, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if not each.name.startswith("_"):
                yield from _docstrings(each, f"{name}.{each.name}")
        elif isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant):
            target = before.target if isinstance(before, ast.AnnAssign) else None
            if isinstance(before, ast.Assign):
                target = before.targets[0]
            if isinstance(target, ast.Name) and isinstance(each.value.value, str):
                text = textwrap.dedent(each.value.value)
                yield f"{name}.{target.id}", text
        before = each


def registry() -> dict[str, dict[str, str | list[str]]]:
    """The proofs by sentence, by object."""
    return tomllib.loads((ROOT / "core/tests/promises.toml").read_text())


def stub(name: str, sentence: str) -> str:
    """The row that is missing from the registry."""
    return f'["{name}"]\n{json.dumps(sentence, ensure_ascii=False)} = []'


def page() -> str:
    """The page, in Markdown."""
    parts = [INTRODUCTION]
    for name, rows in registry().items():
        promises = {text: proofs for text, proofs in rows.items() if proofs != EXPLAINS}
        if not promises:
            continue
        parts.append(f"\n## {name}\n")
        for text, proofs in promises.items():
            parts.append(f"\n{text}\n\n")
            parts += [f"- {_linked(proof)}\n" for proof in proofs]
    return "".join(parts)


def _linked(proof: str) -> str:
    if RULE.fullmatch(proof):
        return f"rule [{proof}](proofs.md#{proof.lower()})"
    path, _, test = proof.partition("::")
    return f"test [{test.removeprefix('test_').replace('_', ' ')}](../{path})"


if __name__ == "__main__":
    sys.stdout.write(page())
