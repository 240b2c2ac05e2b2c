"""REG: slips with handlers."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from typing import Any

from offload import Args, DuplicateHandlerError, State, StopReport, UsageError
from offload.config import Config
from offload_mutants.registry import mutant
from offload_mutants.wrapper import Wrapper


@mutant("REG-1")
class StripsNames(Wrapper):
    """Is kind about spaces around a name, and so takes one that ends in a newline."""

    def register(self, name: str, handler: Any, **options: Any) -> None:
        super().register(name.strip() if isinstance(name, str) else name, handler, **options)


@mutant("REG-1")
class ShortNamesOnly(Wrapper):
    """Has a column of 64 characters for the name."""

    def register(self, name: str, handler: Any, **options: Any) -> None:
        if len(str(name)) > 64:
            raise ValueError(f"handler name {name!r} is longer than 64 characters")
        super().register(name, handler, **options)


@mutant("REG-2")
class FindsOutWhenItRuns(Wrapper):
    """Takes any object for a handler."""

    def change_handler(self, name: str, handler: Any) -> Any:
        def call_it(args: Args) -> Any:
            return handler(args)

        return handler if callable(handler) else call_it


@mutant("REG-2")
class TakesTheNameFirst(Wrapper):
    """Puts a handler in its table before it looks at it."""

    def register(self, name: str, handler: Any, **options: Any) -> None:
        if not callable(handler):
            super().register(name, print)
            raise TypeError(f"{handler!r} is not callable")
        super().register(name, handler, **options)


class HasATable(Wrapper):
    """Looks a handler up in a table of its own when it is called."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.table: dict[str, Any] = {}

    def register(self, name: str, handler: Any, **options: Any) -> None:
        async def call_async(args: Args) -> None:
            await self.table[name](args)

        def call_plain(args: Args) -> None:
            self.table[name](args)

        is_async = inspect.iscoroutinefunction(handler)
        call = call_async if is_async else call_plain if callable(handler) else handler
        super().register(name, call, **options)
        self.table[name] = handler


@mutant("REG-3")
class TheLastHandlerWins(HasATable):
    """Says nothing of a second handler with the same name, and uses it."""

    def register(self, name: str, handler: Any, **options: Any) -> None:
        try:
            super().register(name, handler, **options)
        except DuplicateHandlerError:
            self.table[name] = handler


@mutant("REG-3")
class RaisesWhenItHasReplaced(HasATable):
    """Sees that the name was taken once it has taken it."""

    def register(self, name: str, handler: Any, **options: Any) -> None:
        try:
            super().register(name, handler, **options)
        except DuplicateHandlerError:
            self.table[name] = handler
            raise


@mutant("REG-4")
class KnowsOnlyTheHandlersOfItsStart(Wrapper):
    """Takes a copy of its handlers at start; later ones wait for the next."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._names: set[str] = set()
        self._later: list[Callable[[], None]] = []

    def register(self, name: str, handler: Any, **options: Any) -> None:
        if self.state is not State.RUNNING:
            self._names.add(name)
        elif name not in self._names:
            self._later.append(lambda: self.inner.register(name, handler, **options))
            return
        super().register(name, handler, **options)

    async def stop(self) -> StopReport:
        report = await super().stop()
        while self._later:
            self._later.pop()()
        return report


@mutant("REG-4", "LIFE-9")
class TakesNoHandlersWhileItRuns(Wrapper):
    """Freezes its table at start, so that it can be read from every thread."""

    def register(self, name: str, handler: Any, **options: Any) -> None:
        if self.state is State.RUNNING:
            raise UsageError("handlers are registered before start")
        super().register(name, handler, **options)


@mutant("REG-4")
class TakesLateHandlersForAsync(Wrapper):
    """Sorts its handlers into `def` and `async def` at start; later ones are never sorted."""

    def change_handler(self, name: str, handler: Any) -> Any:
        async def await_it(args: Args) -> None:
            await handler(args)

        return await_it if callable(handler) and self.state is State.RUNNING else handler


@mutant("REG-4")
class ForgetsTheOptionsOfLateHandlers(Wrapper):
    """Has its options compiled at start: a handler that comes later gets the defaults."""

    def change_options(self, options: dict[str, Any]) -> dict[str, Any]:
        return {} if self.state is State.RUNNING else options


@mutant("REG-5", "LIFE-6", "LIFE-7", "LIFE-11", "PERF-7", "CONC-2", "CONC-3")
class RunsDefHandlersOnTheLoop(Wrapper):
    """Calls every handler, and awaits what comes back if it can be awaited."""

    def change_handler(self, name: str, handler: Any) -> Any:
        async def call_it(args: Args) -> None:
            result = handler(args)
            if inspect.isawaitable(result):
                await result

        return call_it if callable(handler) else handler


@mutant("REG-5", "CONC-2")
class OneThreadForAllDefHandlers(Wrapper):
    """Takes care that no two `def` handlers run at once."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._lock = threading.Lock()

    def change_handler(self, name: str, handler: Any) -> Any:
        def call_it(args: Args) -> None:
            with self._lock:
                handler(args)

        is_plain = callable(handler) and not inspect.iscoroutinefunction(handler)
        return call_it if is_plain else handler
