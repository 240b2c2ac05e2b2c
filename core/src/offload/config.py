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
    "Secret",
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


class Secret(str):
    """Text that may be a secret, or hold one: its `repr` shows nothing.

    Programs that report errors send the locals of every frame along, by their
    `repr`.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


@dataclass(frozen=True, slots=True)
class Address:
    """A split config string, percent-decoded."""

    scheme: str
    username: str | None
    password: Secret | None
    hosts: tuple[tuple[str, int | None], ...]
    """Each with its port, if it has one. Most backends take but one."""
    path: str
    query: Mapping[str, Secret]
    """Its names may be secrets, too."""
    _shown: str
    """The config string without its query, the password masked."""
    _may_hide_password: bool
    """Whether what reads as options may be the end of a password with a `?` in it."""

    @property
    def host(self) -> str | None:
        """The host; of several, the first."""
        return (self.hosts[0][0] or None) if self.hosts else None

    @property
    def port(self) -> int | None:
        """The port of that host, if it has one."""
        return self.hosts[0][1] if self.hosts else None

    def shows(self, name: str) -> bool:
        """Whether the name of an option is surely no part of a secret."""
        return not (self._may_hide_password or "@" in name or "/" in name)

    def __str__(self) -> str:
        return self._shown


FORM = "the config string must have the form scheme://[user[:password]@][host[:port]][/path]"


def parse_address(url: str) -> Address:
    """Split a config string.

    Raises:
        ConfigError: it isn't of the form `scheme://…`. It isn't shown: it may hold a secret.
    """
    url = Secret(url) if isinstance(url, str) else ""
    address = _split(url)
    if isinstance(address, str):
        raise ConfigError(address)
    return address


def _split(url: str) -> Address | str:
    """The address, or what is wrong with it: no frame that has its parts may be in a traceback."""
    if "://" not in url:
        return f"{FORM}, for example simple:// or sqlite:///jobs.db"
    try:
        split = urlsplit(url)
        hosts = _read_hosts(split.netloc.rpartition("@")[2])
    except ValueError:
        return f"{FORM}; its host or port can't be read"
    if not split.scheme or split.fragment:
        return f"{FORM}, with no # in it (write %23)"
    query: dict[str, Secret] = {}
    may_hide_password = "@" in split.query and "@" not in split.netloc
    for name, value in parse_qsl(split.query, keep_blank_values=True):
        if name in query:
            is_shown = not (may_hide_password or "@" in name or "/" in name)
            shown = repr(name) if is_shown else "that isn't shown"
            return f"option {shown} is given twice"
        query[Secret(name)] = Secret(value)
    return Address(
        scheme=split.scheme,
        username=None if split.username is None else unquote(split.username),
        password=None if split.password is None else Secret(unquote(split.password)),
        hosts=hosts,
        path=unquote(split.path),
        query=query,
        _shown=_masked(split),
        _may_hide_password=may_hide_password,
    )


def _masked(split: SplitResult) -> str:
    location = split.netloc.rpartition("@")[2]
    if split.password is not None:
        location = f"{split.username or ''}:***@{location}"
    elif split.username is not None:
        location = f"{split.username}@{location}"
    return f"{split.scheme}://{location}{split.path}"


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
            raise ConfigError(_unknown(address, str(name), sorted(known)))
        try:
            value = option.parse(text)
        except ValueError as error:
            shown = "***" if option.secret else repr(str(text))
            raise ConfigError(
                f"option {option.name!r}: {shown} is not allowed; give {error}"
            ) from None
        is_hidden = isinstance(value, Secret) and not option.secret
        values[option.name] = str(value) if is_hidden else value
    return Config(address, values)


def _unknown(address: Address, name: str, known: Sequence[str]) -> str:
    allowed = "Allowed: " + ", ".join(known)
    if not address.shows(name):
        return (
            f"{address.scheme}:// has no such option; it isn't shown, since it may be the end of "
            f"a password with ? in it (write %3F). {allowed}"
        )
    close = difflib.get_close_matches(name, known, 1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"{address.scheme}:// has no option {name!r}{hint} {allowed}"
