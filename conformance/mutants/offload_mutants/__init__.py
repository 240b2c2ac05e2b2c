"""Broken adapters, each with one slip that a real author might make, and benign ones.

`OFFLOAD_MUTANT=NAME` says which one `mutant://` is (`mutant:///path/to.db` for those on a file).
A mutant states the rule that it must break, and which others may fall with it; the matrix
proves that the kit kills it by that rule, and that no unrelated rule falls.
"""

from __future__ import annotations

import importlib
import os
import pkgutil

from offload import Adapter, hookimpl
from offload_mutants.registry import VARIANTS

for _module in pkgutil.iter_modules(__path__):
    if _module.name.startswith(("mutants_", "benign_")):
        importlib.import_module(f"{__name__}.{_module.name}")


@hookimpl
def offload_adapter(scheme: str) -> Adapter | None:
    """The adapter that `$OFFLOAD_MUTANT` names."""
    return VARIANTS[os.environ["OFFLOAD_MUTANT"]].adapter if scheme == "mutant" else None
