"""CONF: slips in how an adapter is chosen and configured."""

from __future__ import annotations

import importlib.metadata
import logging
import sys
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

from offload import ConfigError, Handler, adapters
from offload.adapters import GROUP
from offload.config import Config, Option
from offload_mutants.registry import VARIANTS, Make, mutant
from offload_mutants.wrapper import Wrapper
from offload_simple.driver import SimpleDriver

log = logging.getLogger("offload.mutant")


def offering(*options: Option[Any]) -> Callable[[Make], Make]:
    """Give a variant, which is declared already, options of its own."""

    def offer(make: Make) -> Make:
        name = make.__name__
        variant = VARIANTS[name]
        adapter = replace(variant.adapter, options=(*variant.adapter.options, *options))
        VARIANTS[name] = replace(variant, adapter=adapter)
        return make

    return offer


@mutant("CONF-1")
class EntersAsNothing(Wrapper):
    """Forgets that `async with connect() as worker` gives the worker."""

    async def __aenter__(self) -> Any:
        await self.start()


@mutant("CONF-1")
class DecoratorReturnsNothing(Wrapper):
    """Forgets to return the function: its name is None from then on."""

    def handler(self, name: str, **options: Any) -> Callable[[Any], Any]:
        def decorate(handler: Handler) -> None:
            self.register(name, handler, **options)

        return decorate


@mutant("CONF-2", "CONF-4")
class HidesTheOtherAdapters(SimpleDriver):
    """Keeps the slow search for entry points in a cache, in which only its own are left."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        everything = importlib.metadata.entry_points
        found = tuple(e for e in everything(group=GROUP) if e.name == config.address.scheme)

        def cached(**params: Any) -> Any:
            return found if params.get("group") == GROUP else everything(**params)

        importlib.metadata.entry_points = cached


@mutant("CONF-2")
class WritesItsOwnTableOfKnownAdapters(SimpleDriver):
    """Wants to be named when it isn't installed, and assigns the table in which it adds a line."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        adapters._FIRST_PARTY = {config.address.scheme: "offload-mutant"}


@mutant("CONF-2")
class ListsEachAdapterUnderItsDistribution(SimpleDriver):
    """Groups what is installed by who brings it, of which the last scheme alone is left."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        find = adapters.installed_schemes

        def grouped() -> dict[str, list[tuple[str, str]]]:
            last = {tuple(offered): scheme for scheme, offered in find().items()}
            return {scheme: list(offered) for offered, scheme in last.items()}

        adapters.installed_schemes = grouped


@offering(Option("flavour", "plain", {"plain": 0, "hot": 1}.__getitem__))
@mutant("CONF-3")
class ItsOwnOptionEndsInAKeyError(SimpleDriver):
    """Looks a word up in a dict, and forgets that it may not be there."""


@offering(Option("flavour", "plain", str))
@mutant("CONF-3")
class SaysOnlyThatSomethingIsWrong(SimpleDriver):
    """Checks its option by itself, and tells neither its name nor what is allowed."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        if config.address.query.get("flavour", "plain") not in ("plain", "hot"):
            raise ConfigError("invalid configuration")


@mutant("CONF-4")
class ShipsAModuleOfAnother(SimpleDriver):
    """Brings along a copy of a module that belongs to another distribution, and an empty one."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        sys.modules["offload_sqlite"] = ModuleType("offload_sqlite")


@mutant("CONF-4")
class TakesTheFirstOfTwo(SimpleDriver):
    """Was once installed twice by a packager, and has kept the cure: one adapter for a scheme."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        everything = importlib.metadata.entry_points

        def one_each(**params: Any) -> Any:
            found = everything(**params)
            if params.get("group") != GROUP:
                return found
            return tuple({entry.name: entry for entry in found}.values())

        importlib.metadata.entry_points = one_each


@mutant("CONF-4")
class PassesOverWhatCanNotBeImported(SimpleDriver):
    """Is kind to plugins whose imports fail, as many an application is; nobody learns why."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        load = importlib.metadata.EntryPoint.load

        def load_if_possible(entry_point: importlib.metadata.EntryPoint) -> Any:
            try:
                return load(entry_point)
            except ImportError:
                return None

        importlib.metadata.EntryPoint.load = load_if_possible  # type: ignore[method-assign]


def whole(config: Config) -> str:
    """The config string with nothing masked."""
    address = config.address
    return f"{address.scheme}://{address.username}:{address.password}@{address.host}"


@mutant("CONF-5")
class RefusalShowsThePassword(SimpleDriver):
    """Shows the whole config string, to be of help."""

    def __init__(self, config: Config) -> None:
        if config.address.username is not None:
            raise ConfigError(f"simple:// takes no user: {whole(config)}")
        super().__init__(config)


class TakesAPassword(Wrapper):
    """Lets anybody in."""

    def __init__(self, config: Config) -> None:
        self.whole = whole(config)
        address = replace(config.address, username=None, password=None, hosts=(), path="")
        super().__init__(replace(config, address=address))


@mutant("CONF-5")
class ReprShowsThePassword(TakesAPassword):
    """Has the config string in its repr."""

    def __repr__(self) -> str:
        return f"<worker {self.whole}>"


@mutant("CONF-5")
class LogsThePassword(TakesAPassword):
    """Logs where it connects to, for debugging."""

    async def start(self) -> None:
        log.debug("connecting to %s", self.whole)
        await super().start()


@mutant("CONF-5")
class CauseShowsThePassword(TakesAPassword):
    """Masks the password in its own error, but not in the one that it is raised from."""

    async def start(self) -> None:
        try:
            await super().start()
        except Exception as error:
            raise error from RuntimeError(f"while connecting to {self.whole}")
