"""What the distributions say about Python is what the checks try."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CLASSIFIER = "Programming Language :: Python :: "
PUBLISHED = [
    *("pyproject.toml", "core/pyproject.toml", "conformance/pyproject.toml"),
    *sorted(str(each.relative_to(ROOT)) for each in ROOT.glob("adapters/*/pyproject.toml")),
]


def supported() -> list[str]:
    """The versions in the noxfile, which isn't imported: nox may be another environment's."""
    for node in ast.parse((ROOT / "noxfile.py").read_text()).body:
        match node:
            case ast.Assign(targets=[ast.Name(id="SUPPORTED")], value=value):
                versions: list[str] = ast.literal_eval(value)
                return versions
    raise AssertionError("the noxfile names no versions")


@pytest.mark.parametrize("path", PUBLISHED)
def test_classifiers_and_requires_python_say_what_is_tested(path: str) -> None:
    project = tomllib.loads((ROOT / path).read_text())["project"]
    named = [each for each in project["classifiers"] if each.startswith(CLASSIFIER)]
    assert [each.removeprefix(CLASSIFIER) for each in named] == supported()
    assert project["requires-python"] == f">={supported()[0]}"
