"""What the queues and exchanges are called, and the keys that carry a delay.

A delay of whole seconds goes down a ladder: level L holds a message for 2^L
seconds, if the key has a 1 in that place, and passes it on to the level below.
"""

from __future__ import annotations

from offload import ConfigError

LONGEST_VHOST = 127
"""Characters of a vhost's name that AMQP can carry. Its bytes are at most 255."""

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


def check_names(namespace: str, vhost: str) -> None:
    """Refuse names that no broker would take. Those of our queues are short enough, whatever
    they are made of.

    Raises:
        ConfigError: it says which name, and what is allowed.
    """
    if namespace == "amq":
        raise ConfigError(
            "option 'namespace': 'amq' is not allowed; names that begin with amq. are the broker's"
        )
    try:
        size = len(vhost.encode())
    except UnicodeEncodeError:
        raise ConfigError(f"the vhost {vhost!r} is no Unicode text") from None
    if len(vhost) > LONGEST_VHOST or size > 255:
        raise ConfigError(
            f"the vhost {vhost!r} is too long; AMQP allows {LONGEST_VHOST} characters, "
            "and 255 bytes in UTF-8"
        )


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
