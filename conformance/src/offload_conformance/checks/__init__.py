"""Pure functions of a history: they prove a rule, now and from the file alone.

A test states what must hold as named checks with parameters, which become
events of the history too. `broken` evaluates them all again, with nothing but
the history; `verify` does just that.
"""

from offload_conformance.checks import plain, runs, times  # noqa: F401 - they register their checks
from offload_conformance.checks.registry import CHECKS, broken, vacuous

__all__ = ["CHECKS", "broken", "vacuous"]
