"""The author's fixtures: found by the scheme, checked, and told from the adapter when they fail."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import traceback
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

from offload.config import parse_address
from offload_conformance.authors import Fresh, GoldenStates, Inject, Server
from offload_conformance.golden import GOLDEN
from offload_conformance.stage import DEADLINE

AUTHORS = "offload.conformance"
"""Entry points by scheme: a pytest plugin with the fixtures that only an author can give."""

CALL_SECONDS = 8 * DEADLINE
"""How long a server of the author's may take to start, or to be killed."""
NOT_AN_AUTHORS = ("offload_conformance.", "_pytest.", "pytest_asyncio.", "xdist.", "pluggy.")


class FixtureError(Exception):
    """A fixture of the author's fails: that proves nothing of the adapter."""


class UnverifiedError(AssertionError):
    """The author gave nothing to verify a rule with. Loud: a skip would be overlooked."""


def authors_of(url: str) -> list[EntryPoint]:
    """What is published for the scheme of a config string."""
    return list(entry_points(group=AUTHORS, name=parse_address(url).scheme))


def load_fixtures(config: pytest.Config, url: str) -> None:
    """Register the fixtures that are published for the adapter behind this URL.

    Those of an author's own suite still win: pytest ranks a plugin's below them.

    Raises:
        FixtureError: their module can't be loaded.
    """
    config.option.offload_url = url  # for fixtures of the session, which can't ask for the test's
    for author in authors_of(url):
        try:
            module = author.load()
        except (Exception, SystemExit) as error:
            raise FixtureError(
                f"the fixtures of {author.value} can't be loaded: {type(error).__name__}: {error}"
            ) from error
        if not config.pluginmanager.is_registered(module):
            config.pluginmanager.register(module, author.value)


@dataclass(frozen=True)
class Published:
    """What an author has published, or overrides in their own suite."""

    server: Server | None = None
    inject: Inject | None = None
    fresh: Fresh | None = None
    golden: Mapping[str, bytes] = field(default_factory=lambda: dict(GOLDEN))
    states: GoldenStates | None = None


class Origins:
    """Where fixtures are defined, so that a failure in one is told as its author's."""

    def __init__(self) -> None:
        self._by_name: dict[str, str] = {}
        self._by_code: dict[CodeType, str] = {}

    def note(self, fixture: pytest.FixtureDef[Any]) -> None:
        """Remember a fixture that is about to be set up."""
        function = inspect.unwrap(fixture.func)
        label = f"the fixture {fixture.argname} of {function.__module__}"
        self._by_name[fixture.argname] = label
        code = getattr(function, "__code__", None)
        if code is not None and not f"{function.__module__}.".startswith(NOT_AN_AUTHORS):
            self._by_code[code] = label

    def of(self, name: str) -> str:
        """The fixture of this name, as it is told."""
        return self._by_name.get(name, f"the fixture {name}")

    def blame(self, error: BaseException | None) -> str | None:
        """The fixture of an author's through which an error came, if there is one."""
        while error is not None:
            for frame, _ in traceback.walk_tb(error.__traceback__):
                if (label := self._by_code.get(frame.f_code)) is not None:
                    return label
            error = error.__cause__ or error.__context__
        return None

    def publish(self, request: pytest.FixtureRequest) -> Published:
        """Set up the author's fixtures, and check what they return.

        Raises:
            FixtureError: one isn't what the kit can use.
        """
        names = (
            "offload_server",
            "offload_inject",
            "offload_fresh",
            "offload_golden",
            "offload_golden_states",
        )
        server, inject, fresh, golden, states = map(request.getfixturevalue, names)
        scheme = parse_address(request.getfixturevalue("offload_url")).scheme
        for name, wrong in zip(
            names,
            (
                _wrong_server(server),
                _wrong_function(inject),
                _wrong_function(fresh),
                _wrong_golden(golden),
                _wrong_states(states),
            ),
            strict=True,
        ):
            if wrong:
                raise FixtureError(f"{self.of(name)} failed: it returned {wrong}")
        return Published(
            None if server is None else CheckedServer(server, self.of(names[0])),
            None if inject is None else CheckedInject(inject, self.of(names[1])),
            None if fresh is None else CheckedFresh(fresh, self.of(names[2]), scheme),
            golden,
            None if states is None else CheckedStates(states, self.of(names[4])),
        )


def _wrong_server(server: object) -> str:
    if server is None:
        return ""
    return _lacks_method(server, "start", "kill") or _wrong_address(server)


def _lacks_method(given: object, *names: str) -> str:
    for name in names:
        if not callable(getattr(given, name, None)):
            return f"a {type(given).__name__} without a method {name}()"
    return ""


def _wrong_address(server: object) -> str:
    match getattr(server, "address", None):
        case (str(), int()):
            return ""
        case address:
            kind = type(server).__name__
            return f"a {kind} whose address is {address!r}, not a host and a port"


def _wrong_function(function: object) -> str:
    return "" if function is None or callable(function) else f"{function!r}, which can't be called"


def _wrong_golden(golden: object) -> str:
    if isinstance(golden, Mapping) and all(isinstance(body, bytes) for body in golden.values()):
        return ""
    return f"a {type(golden).__name__}, not a dict of bytes"


def _wrong_states(states: object) -> str:
    if states is None:
        return ""
    if lacks := _lacks_method(states, "read", "lay"):
        return lacks
    if not isinstance(getattr(states, "folder", None), Path):
        return f"a {type(states).__name__} whose folder is no Path"
    if not isinstance(getattr(states, "beside", None), Collection):
        return f"a {type(states).__name__} whose beside is no collection of releases"
    return ""


class CheckedServer:
    """The author's server: what it raises is told as its author's error."""

    def __init__(self, server: Server, label: str) -> None:
        self._server = server
        self._label = label

    @property
    def address(self) -> tuple[str, int]:
        """As the author gives it."""
        with _blamed(self._label):
            return self._server.address

    async def start(self) -> None:
        """Start it."""
        await _call(f"start() of {self._label}", self._server.start)

    async def kill(self) -> None:
        """Kill it."""
        await _call(f"kill() of {self._label}", self._server.kill)


class CheckedInject:
    """The author's way to inject, likewise."""

    def __init__(self, inject: Inject, label: str) -> None:
        self._inject = inject
        self._label = label

    async def __call__(self, *, namespace: str, queue: str, body: bytes) -> None:
        """Inject."""
        await _call(self._label, self._inject, namespace=namespace, queue=queue, body=body)


class CheckedFresh:
    """The author's fresh places, likewise."""

    def __init__(self, fresh: Fresh, label: str, scheme: str) -> None:
        self._fresh = fresh
        self._label = label
        self._scheme = scheme

    def __call__(self) -> str:
        """The config string of one."""
        with _blamed(self._label):
            url = self._fresh()
            if parse_address(url).scheme != self._scheme:
                raise ValueError(f"its scheme isn't {self._scheme}")
            return url


class CheckedStates:
    """The author's golden states, likewise."""

    def __init__(self, states: GoldenStates, label: str) -> None:
        self._states = states
        self._label = label

    @property
    def folder(self) -> Path:
        """As the author gives it."""
        with _blamed(self._label):
            return self._states.folder

    @property
    def beside(self) -> Collection[str]:
        """As the author gives it."""
        with _blamed(self._label):
            return self._states.beside

    async def read(self, *, namespace: str) -> str:
        """Read what is there."""
        label = f"read() of {self._label}"
        text = await _call(label, self._states.read, namespace=namespace)
        if not isinstance(text, str):
            raise FixtureError(f"{label} failed: it returned a {type(text).__name__}, not text")
        return text

    async def lay(self, *, namespace: str, state: str) -> None:
        """Put it there."""
        label = f"lay() of {self._label}"
        await _call(label, self._states.lay, namespace=namespace, state=state)


async def _call(label: str, method: Any, **arguments: Any) -> Any:
    with _blamed(label):
        called = method(**arguments)
        if not inspect.isawaitable(called):
            raise TypeError("it isn't async")
        try:
            async with asyncio.timeout(CALL_SECONDS) as limit:
                return await called
        except TimeoutError:
            if limit.expired():
                raise TimeoutError(f"it took more than {CALL_SECONDS:g} s") from None
            raise


@contextlib.contextmanager
def _blamed(label: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise FixtureError(f"{label} failed: {type(error).__name__}: {error}") from error
