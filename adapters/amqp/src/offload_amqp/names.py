"""What the queues and exchanges are called, and the keys that carry a delay.

A delay of whole seconds goes down a ladder: level L holds a message for 2^L
seconds, if the key has a 1 in that place, and passes it on to the level below.
"""

from __future__ import annotations

from offload import ConfigError
from offload.config import NAMESPACE, Config
from offload_amqp.connection import vhost_of

LONGEST_NAME = 127
"""Characters that AMQP allows for an exchange, and for a vhost. Their bytes are at most 255."""

LEVELS = 28
"""2^28 seconds are eight and a half years."""


class Names:
    """The names of one namespace."""

    def __init__(self, namespace: str) -> None:
        self._start = namespace
        self.due = f"{namespace}.due"
        """The exchange behind the ladder."""

    def work(self, queue: str) -> str:
        """The queue of what is ready."""
        return f"{self._start}.q.{queue}"

    def soon(self, queue: str) -> str:
        """The queue of what is due within two seconds: a worker holds it until then."""
        return f"{self._start}.soon.{queue}"

    def dead(self, queue: str) -> str:
        """The queue of dead letters."""
        return f"{self._start}.dead.{queue}"

    def delay(self, level: int) -> str:
        """The exchange, and the queue, of one level of the ladder."""
        return f"{self._start}.delay.{level}"


def check_names(config: Config) -> None:
    """Refuse names that AMQP can't carry, or that the broker keeps for itself.

    Those of queues are short enough, whatever namespace and queue are called.

    Raises:
        ConfigError: it names what is wrong, and what is allowed; no password is shown.
    """
    if config[NAMESPACE] == "amq":
        raise ConfigError(
            "option 'namespace': 'amq' is not allowed; names that begin with amq. are the broker's"
        )
    address = config.address
    most = LONGEST_NAME - len(Names("").delay(LEVELS - 1))
    if len(config[NAMESPACE]) > most:
        raise ConfigError(
            f"option 'namespace': {config[NAMESPACE]!r} is not allowed; give at most {most} "
            "characters, since AMQP limits the names of exchanges"
        )
    vhost = vhost_of(address)
    if len(vhost) > LONGEST_NAME or _size(vhost, "the vhost") > 255:
        raise ConfigError(
            f"the vhost {vhost!r} is too long; AMQP allows {LONGEST_NAME} characters, "
            "and 255 bytes in UTF-8"
        )
    for what, text in (("user", address.username), ("password", address.password)):
        if text and _size(text, f"the {what}") and "\0" in text:
            raise ConfigError(f"the {what} has a NUL in it, which AMQP can't carry")


def _size(text: str, what: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        raise ConfigError(f"{what} has characters that UTF-8 can't carry") from None


def ladder_key(seconds: int, queue: str) -> str:
    """The routing key for a delay: its binary digits, and the queue behind them."""
    return ".".join(format(seconds, f"0{LEVELS}b")) + "." + queue


def first_level(seconds: int) -> int:
    """The level on which a delay begins."""
    return seconds.bit_length() - 1


def level_keys(level: int) -> tuple[str, str]:
    """What is held on a level, and what passes it by."""
    before = "*." * (LEVELS - 1 - level)
    return f"{before}1.#", f"{before}0.#"
