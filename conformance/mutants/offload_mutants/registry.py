"""Variants of the embedded adapters: how they are declared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import offload_simple
import offload_sqlite
from offload import Adapter, Claims, Driver, Limits, Worker
from offload.config import Config
from offload_mutants import bare_worker, net_driver, sql_driver

Make = Callable[[Config], Driver | Worker]

BASES = {
    "simple": offload_simple.ADAPTER,
    "sqlite": offload_sqlite.ADAPTER,
    "net": net_driver.ADAPTER,
    "bare": bare_worker.ADAPTER,
    "sql": sql_driver.ADAPTER,
}


@dataclass(frozen=True, slots=True)
class Variant:
    """An adapter made of another one."""

    name: str
    base: str
    adapter: Adapter
    story: str
    breaks: str | None
    """The rule that it must break; None for a benign one."""
    also: tuple[str, ...]
    """Rules that may fall with it."""
    chapters: tuple[str, ...]
    """Those that a benign one stretches: in which it may be taken for wrong."""
    quick: bool
    """Whether the quick profile is enough to judge it."""
    backend: tuple[str, ...]
    """Arguments of the backend, for a variant of base `net`."""


VARIANTS: dict[str, Variant] = {}


def mutant(
    breaks: str,
    *also: str,
    base: str = "simple",
    claims: Claims | None = None,
    limits: Limits | None = None,
    quick: bool = True,
) -> Callable[[Make], Make]:
    """Register a broken adapter: a function or class that makes it, its docstring its story."""
    return lambda make: _register(make, breaks, also, base, claims, limits, quick=quick)


def benign(
    *chapters: str,
    base: str = "simple",
    claims: Claims | None = None,
    limits: Limits | None = None,
    deviations: Mapping[str, str] | None = None,
    quick: bool = True,
) -> Callable[[Make], Make]:
    """Register an adapter that is unusual and right, but for the deviations that it states."""
    return lambda make: _register(
        make, None, chapters, base, claims, limits, deviations, quick=quick
    )


def _register(
    make: Make,
    breaks: str | None,
    named: tuple[str, ...],
    base: str,
    claims: Claims | None,
    limits: Limits | None,
    deviations: Mapping[str, str] | None = None,
    *,
    quick: bool,
) -> Make:
    original = BASES[base]
    adapter = replace(
        original,
        make=make,
        claims=claims or original.claims,
        limits=limits or original.limits,
        deviations=deviations or {},
    )
    name = make.__name__
    if name in VARIANTS:
        raise ValueError(f"two variants are called {name}")
    story = (make.__doc__ or "").strip()
    backend = getattr(make, "backend", ())
    also, chapters = (named, ()) if breaks else ((), named)
    VARIANTS[name] = Variant(name, base, adapter, story, breaks, also, chapters, quick, backend)
    return make
