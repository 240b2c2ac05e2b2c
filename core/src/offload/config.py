"""The config string: one URL that names the backend and its options.

    scheme://[user[:password]@][host[:port][,host[:port]…]][/path][?option=value&…]

Everything is checked before anything connects (CONF-3), and no secret is ever
shown (CONF-5): a password is masked, and so is the value of an unknown option,
since that may be a password with a slip in its name.

Public, for authors of adapters: their options are read here as the worker's are.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Generic, TypeVar
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from offload.duration import ALLOWED as DURATION_ALLOWED
from offload.duration import parse_duration
from offload.errors import ConfigError
from offload.job import QUEUE_PATTERN, QUEUE_RULE

__all__ = [
    "CONCURRENCY",
    "GRACE",
    "MAX_ATTEMPTS",
    "NAMESPACE",
    "QUEUES",
    "Address",
    "Config",
    "Option",
    "duration",
    "integer",
    "one_of",
    "parse_address",
    "read_config",
    "some_text",
]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Option(Generic[T]):
    """An option of a config string, and how its text is read."""

    name: str
    default: T
    parse: Callable[[str], T]
    """Raises ValueError, with what is allowed as its text."""
    secret: bool = False
    """Its value is masked wherever the config string is shown."""


def integer(low: int, high: int) -> Callable[[str], int]:
    """A parser for whole numbers from `low` to `high`."""

    def parse(text: str) -> int:
        if text.isascii() and text.isdigit() and len(text) < 20 and low <= int(text) <= high:
            return int(text)
        raise ValueError(f"a whole number from {low} to {high}")

    return parse


def duration(low: timedelta, high: timedelta) -> Callable[[str], timedelta]:
    """A parser for durations from `low` to `high`."""

    def parse(text: str) -> timedelta:
        value = parse_duration(text)
        if low <= value <= high:
            return value
        raise ValueError(f"{DURATION_ALLOWED}, from {low} to {high}")

    return parse


def one_of(*words: str) -> Callable[[str], str]:
    """A parser for a closed set of words."""

    def parse(text: str) -> str:
        if text in words:
            return text
        raise ValueError("one of " + ", ".join(words))

    return parse


def some_text(text: str) -> str:
    """A parser for any text but none."""
    if text:
        return text
    raise ValueError("some text")


def _name(text: str) -> str:
    if QUEUE_PATTERN.fullmatch(text):
        return text
    raise ValueError(QUEUE_RULE)


def _names(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(text.split(",")))
    if all(QUEUE_PATTERN.fullmatch(name) for name in names):
        return names
    raise ValueError(f"names of {QUEUE_RULE}, with commas between them")


_DEFAULT_QUEUES: tuple[str, ...] = ("default",)

QUEUES = Option("queues", _DEFAULT_QUEUES, _names)
CONCURRENCY = Option("concurrency", 25, integer(1, 10_000))
MAX_ATTEMPTS = Option("max_attempts", 4, integer(1, 1_000_000))
GRACE = Option("grace", timedelta(seconds=30), duration(timedelta(0), timedelta(days=1)))
NAMESPACE = Option("namespace", "offload", _name)

COMMON_OPTIONS: tuple[Option[Any], ...] = (QUEUES, CONCURRENCY, MAX_ATTEMPTS, GRACE, NAMESPACE)
"""The worker's own options, the same on every adapter."""


@dataclass(frozen=True, slots=True)
class Address:
    """A split config string, percent-decoded."""

    scheme: str
    username: str | None
    password: str | None = field(repr=False)
    hosts: tuple[tuple[str, int | None], ...]
    """Each with its port, if it has one. Most backends take but one."""
    path: str
    query: Mapping[str, str] = field(repr=False)
    _split: SplitResult = field(repr=False)

    @property
    def host(self) -> str | None:
        """The host; of several, the first."""
        return (self.hosts[0][0] or None) if self.hosts else None

    @property
    def port(self) -> int | None:
        """The port of that host, if it has one."""
        return self.hosts[0][1] if self.hosts else None

    def __str__(self) -> str:
        """The config string without its query, the password masked."""
        location = self._split.netloc.rpartition("@")[2]
        if self.password is not None:
            location = f"{self._split.username or ''}:***@{location}"
        elif self.username is not None:
            location = f"{self._split.username}@{location}"
        return f"{self.scheme}://{location}{self._split.path}"


def parse_address(url: str) -> Address:
    """Split a config string.

    Raises:
        ConfigError: it isn't of the form `scheme://…`. It isn't shown: it may hold a secret.
    """
    form = "the config string must have the form scheme://[user[:password]@][host[:port]][/path]"
    if not isinstance(url, str) or "://" not in url:
        raise ConfigError(f"{form}, for example simple:// or sqlite:///jobs.db")
    try:
        split = urlsplit(url)
        hosts = _read_hosts(split.netloc.rpartition("@")[2])
    except ValueError:
        raise ConfigError(f"{form}; its host or port can't be read") from None
    if not split.scheme or split.fragment:
        raise ConfigError(f"{form}, with no # in it (write %23)")
    query: dict[str, str] = {}
    for name, value in parse_qsl(split.query, keep_blank_values=True):
        if name in query:
            shown = "that isn't shown" if "@" in name or "/" in name else repr(name)
            raise ConfigError(f"option {shown} is given twice")
        query[name] = value
    return Address(
        scheme=split.scheme,
        username=None if split.username is None else unquote(split.username),
        password=None if split.password is None else unquote(split.password),
        hosts=hosts,
        path=unquote(split.path),
        query=query,
        _split=split,
    )


def _read_hosts(location: str) -> tuple[tuple[str, int | None], ...]:
    hosts: list[tuple[str, int | None]] = []
    for part in location.split(",") if location else ():
        split = urlsplit(f"//{part}")
        if not split.hostname and "," in location:
            raise ValueError("a host is missing")
        hosts.append((split.hostname or "", split.port))
    return tuple(hosts)


@dataclass(frozen=True, slots=True)
class Config:
    """A checked config string: where the backend is, and every option with its value."""

    address: Address
    _values: Mapping[str, Any] = field(repr=False)

    def __getitem__(self, option: Option[T]) -> T:
        value: T = self._values[option.name]
        return value

    def __str__(self) -> str:
        return str(self.address)


def read_config(address: Address, own_options: Sequence[Option[Any]]) -> Config:
    """Read the worker's options and the adapter's own from an address.

    Raises:
        ConfigError: naming an option that is unknown, or whose value isn't allowed.
    """
    known = {option.name: option for option in (*COMMON_OPTIONS, *own_options)}
    values: dict[str, Any] = {name: option.default for name, option in known.items()}
    for name, text in address.query.items():
        option = known.get(name)
        if option is None:
            close = difflib.get_close_matches(name, known, 1)
            if "@" in name or "/" in name:
                raise ConfigError(
                    f"{address.scheme}:// has no such option; it isn't shown, since it may be the "
                    "end of a password with ? in it (write %3F). Allowed: "
                    + ", ".join(sorted(known))
                )
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ConfigError(
                f"{address.scheme}:// has no option {name!r}{hint} Allowed: "
                + ", ".join(sorted(known))
            )
        try:
            values[name] = option.parse(text)
        except ValueError as error:
            shown = "***" if option.secret else repr(text)
            raise ConfigError(f"option {name!r}: {shown} is not allowed; give {error}") from None
    return Config(address, values)
