"""The arrows between the layers, read from the source."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

import offload

CORE = Path(offload.__file__).parent
ADAPTERS = CORE.parents[2] / "adapters"

CONTRACT = {"worker", "job", "errors", "claims", "retry"}
PUBLIC_MODULES = {
    "offload",
    "offload.config",
    "offload.forking",
    "offload.text",
    "offload.validation",
}
ABOVE_THE_CONTRACT = {"driver", "engine", "adapters", "config", "cli", "envelope", "args"}


def imported(path: Path) -> set[str]:
    """The modules that a file imports at its top, in whole names."""
    names: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(str(node.module))
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("name", sorted(CONTRACT))
def test_the_contract_knows_no_driver_and_no_engine(name):
    parts = {
        module.removeprefix("offload.").split(".")[0] for module in imported(CORE / f"{name}.py")
    }
    assert not parts & ABOVE_THE_CONTRACT


def test_the_driver_layer_knows_no_engine():
    assert not any("engine" in module for module in imported(CORE / "driver.py"))


@pytest.mark.parametrize(
    "path",
    sorted(ADAPTERS.glob("*/src/**/*.py")),
    ids=lambda path: f"{path.parent.name}/{path.name}",
)
def test_adapters_use_public_names_only(path):
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            assert all(not alias.name.startswith("offload.") for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "offload":
            assert node.module in PUBLIC_MODULES
            module = importlib.import_module(node.module)
            assert {alias.name for alias in node.names} <= set(module.__all__)


PUBLIC = (Path(__file__).parent / "public_names.txt").read_text().split()


def test_the_public_names_are_those_we_mean():
    """A name added or taken away is a decision: it shows here, and goes into the changelog."""
    assert sorted(offload.__all__) == PUBLIC
