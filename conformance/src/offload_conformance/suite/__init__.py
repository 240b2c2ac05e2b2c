"""The tests, a module for each chapter of the contract.

All of them at once, for an author's own suite: `from offload_conformance.suite import *`.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import pytest

__all__: list[str] = []

for _module in pkgutil.iter_modules(__path__, f"{__name__}."):
    for _name, _test in vars(importlib.import_module(_module.name)).items():
        if _name.startswith("test_"):
            # The mark of its module wouldn't come along.
            is_async = inspect.iscoroutinefunction(_test)
            globals()[_name] = pytest.mark.asyncio(_test) if is_async else _test
            __all__ += [_name]
