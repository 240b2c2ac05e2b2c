"""Adapters: found by the scheme of the config string, loaded only when asked for.

A distribution offers one with an entry point, named for the scheme, whose
module implements the hook below:

    [project.entry-points."offload.adapters"]
    myqueue = "offload_myqueue"
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pluggy

from offload.claims import Claims, Limits
from offload.config import Address, Config, Option, Secret, parse_address, read_config
from offload.driver import Driver
from offload.errors import ConfigError, UnknownAdapterError
from offload.observers import hookimpl, hookspec
from offload.worker import Worker

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint
    from pathlib import Path

__all__ = [
    "GROUP",
    "Adapter",
    "connect",
    "find_adapter",
    "hookimpl",
    "installed_schemes",
    "make_worker",
]

GROUP = "offload.adapters"

# What `pip install offload[…]` brings: an unknown scheme among these gets the command.
_FIRST_PARTY = {
    "simple": "offload",
    "sqlite": "offload[sqlite]",
    "redis": "offload[redis]",
    "rediss": "offload[redis]",
    "unix": "offload[redis]",
    "redis+sentinel": "offload[redis]",
    "redis+cluster": "offload[redis]",
    "redis+fake": "offload-redis[fake]",
    "amqp": "offload[amqp]",
    "amqps": "offload[amqp]",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """What a distribution offers for a scheme.

    Attributes:
        claims: what it can do.
        limits: the numbers behind the claims.
        make: makes a driver, or a whole worker, without connecting.
        options: its own options, besides those that every worker has.
        file: where the file is, for a backend that is one: who only looks at it must not make it.
        deviations: rules of the contract that it can't keep, by id, each with the reason in plain
            words. The conformance kit shows them wherever it shows its verdict, and allows none
            from a rule at the heart of the contract.
    """

    claims: Claims
    limits: Limits
    make: Callable[[Config], Driver | Worker]
    options: Sequence[Option[Any]] = ()
    file: Callable[[Address], Path] | None = None
    deviations: Mapping[str, str] = field(default_factory=dict)


class AdapterHooks:
    """The hook that an adapter's module implements."""

    @hookspec(firstresult=True)
    def offload_adapter(self, scheme: str) -> Adapter | None:
        """The adapter for this scheme, or None if it isn't one of this module's."""


_manager = pluggy.PluginManager("offload")
_manager.add_hookspecs(AdapterHooks)


def _entry_points() -> list[EntryPoint]:
    from importlib.metadata import entry_points  # slow to import, and needed only here

    # The same distribution can be found twice along sys.path; it is still one.
    found = {(e.name, e.value, _distribution(e)): e for e in entry_points(group=GROUP)}
    return sorted(found.values(), key=lambda e: (e.name, _distribution(e)))


def _distribution(entry_point: EntryPoint) -> str:
    return entry_point.dist.name if entry_point.dist else "(unknown distribution)"


def installed_schemes() -> dict[str, list[tuple[str, str]]]:
    """The schemes on offer, each with the name and version of every distribution that claims it."""
    schemes: dict[str, list[tuple[str, str]]] = {}
    for entry_point in _entry_points():
        version = entry_point.dist.version if entry_point.dist else ""
        schemes.setdefault(entry_point.name, []).append((_distribution(entry_point), version))
    return schemes


def find_adapter(scheme: str) -> Adapter:
    """Load the adapter for a scheme.

    Raises:
        UnknownAdapterError: none is installed, several are, or it can't be loaded (CONF-2, CONF-4).
    """
    return _find_adapter(scheme, tuple(sys.path))


@functools.cache  # to read what all distributions offer takes milliseconds
def _find_adapter(scheme: str, _path: tuple[str, ...]) -> Adapter:
    entry_points = [e for e in _entry_points() if e.name == scheme]
    if not entry_points:
        raise UnknownAdapterError(_unknown(scheme))
    if len(entry_points) > 1:
        names = " and ".join(_distribution(e) for e in entry_points)
        raise UnknownAdapterError(
            f"{scheme}:// is claimed by {names}; uninstall all but one of them"
        )
    (entry_point,) = entry_points
    named = f"the adapter for {scheme}://, {_distribution(entry_point)}"
    try:
        adapter = _ask(entry_point.load(), scheme)
    except (Exception, SystemExit) as error:  # a module that exits is one that fails
        raise UnknownAdapterError(
            f"{named}, can't be loaded: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(adapter, Adapter):
        raise UnknownAdapterError(
            f"{named}, offers nothing for that scheme: {entry_point.value} must implement "
            "offload_adapter(scheme) and return an offload.Adapter"
        )
    return adapter


def _ask(plugin: object, scheme: str) -> Adapter | None:
    if not _manager.is_registered(plugin):
        _manager.register(plugin)
        try:
            _manager.check_pending()
        except pluggy.PluginValidationError:
            _manager.unregister(plugin)
            raise
    others = [other for other in _manager.get_plugins() if other is not plugin]
    adapter: Adapter | None = _manager.subset_hook_caller("offload_adapter", others)(scheme=scheme)
    return adapter


def _unknown(scheme: str) -> str:
    installed = ", ".join(f"{s}://" for s in installed_schemes()) or "none"
    text = f"no adapter for {scheme}:// is installed; installed: {installed}"
    if scheme in _FIRST_PARTY:
        text += f". To install it: pip install '{_FIRST_PARTY[scheme]}'"
    return text


_override: ContextVar[str | None] = ContextVar("offload_url_override", default=None)


@contextmanager
def override_url(url: str) -> Iterator[None]:
    """Within it, `connect` goes to `url`, whatever it is told."""
    token = _override.set(url)
    try:
        yield
    finally:
        _override.reset(token)


def _chosen(url: str | None) -> Secret:
    """The first that is given. An empty one is refused: it is a variable that nobody set."""
    for given in (_override.get(), url, os.environ.get("OFFLOAD_URL")):
        if given is not None:
            if given == "":
                raise ConfigError("the config string is empty; is a variable not set?")
            return Secret(given if isinstance(given, str) else "")
    raise ConfigError("no config string: pass one to connect(), or set OFFLOAD_URL")


def connect(url: str | None = None) -> Worker:
    """A new worker on the backend that `url`, or else `$OFFLOAD_URL`, names (CONF-1).

    Nothing is connected before the first start or perform.

    Raises:
        ConfigError: no URL, or one with a fault (CONF-3).
        UnknownAdapterError: nothing installed serves its scheme (CONF-2, CONF-4).
    """
    url = _chosen(url)  # from here on no frame has the string that was given
    address = parse_address(url)
    adapter = find_adapter(address.scheme)
    return make_worker(adapter, read_config(address, adapter.options))


def make_worker(adapter: Adapter, config: Config) -> Worker:
    """A new worker on what an adapter makes of a config, for tools that wrap `Adapter.make`."""
    # Half the cost of `import offload`, and needed by nobody who doesn't connect.
    from offload.engine import DriverWorker

    made = adapter.make(config)
    if isinstance(made, Worker):
        made.claims, made.limits = adapter.claims, adapter.limits
        return made
    another: Callable[[], Any] = functools.partial(adapter.make, config)
    return DriverWorker(made, config, adapter.claims, adapter.limits, another)
