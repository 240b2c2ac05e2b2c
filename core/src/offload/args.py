"""Args are captured at the call, as bytes, and refused by path where JSON couldn't carry them.

Only exact types pass. A subclass, a tuple or a date would arrive as something
else, and a handler that sees another type than its tests did is the kind of
surprise that this library exists to prevent.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import msgspec

from offload.errors import InvalidJobError

MAX_DEPTH = 64
MIN_INT = -(2**63)
MAX_INT = 2**64 - 1

# What most args are made of, and what shows at C speed that it can be carried. What is not
# shown so is looked at closely: text that isn't ASCII, and all that is nested or refused.
_PLAIN: dict[type, Callable[[Any], bool]] = {
    str: str.isascii,
    int: range(MIN_INT, MAX_INT + 1).__contains__,
    float: math.isfinite,
    bool: {True, False}.__contains__,
    type(None): {None}.__contains__,
}

_encode = msgspec.json.Encoder().encode


class _RefusedError(Exception):
    """Carries the reason up; each level adds its step of the path on the way."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.steps: list[str] = []


def encode_args(args: Any) -> bytes:
    """Check args and return them as compact JSON in UTF-8 (ARGS-1, ARGS-2).

    Raises:
        InvalidJobError: naming the path of the first value that can't be carried (ARGS-4).
    """
    if type(args) is not dict:
        raise InvalidJobError(f"args: must be a dict, not {type(args).__name__}")
    try:
        _check_dict(args, 1)
    except _RefusedError as refused:
        path = "args" + "".join(reversed(refused.steps))
        raise InvalidJobError(f"{path}: {refused.reason}") from None
    return _encode(args)


def _check_dict(value: dict[Any, Any], depth: int) -> None:
    if depth > MAX_DEPTH:
        raise _RefusedError(f"nested deeper than {MAX_DEPTH} levels, or in a cycle")
    for key, item in value.items():
        if type(key) is not str or not key.isascii():
            _check_key(key)
        kind = type(item)
        plain = _PLAIN.get(kind)
        if plain is not None and plain(item):
            continue
        try:
            _check(item, kind, depth)
        except _RefusedError as refused:
            refused.steps.append(f".{key}" if key.isidentifier() else f"[{key!a}]")
            raise


def _check_key(key: Any) -> None:
    if type(key) is not str:
        raise _RefusedError(f"a key must be str, not {type(key).__name__}")
    _check_text(key, "a key")


def _check_list(value: list[Any], depth: int) -> None:
    if depth > MAX_DEPTH:
        raise _RefusedError(f"nested deeper than {MAX_DEPTH} levels, or in a cycle")
    for index, item in enumerate(value):
        try:
            _check(item, type(item), depth)
        except _RefusedError as refused:
            refused.steps.append(f"[{index}]")
            raise


def _check(value: Any, kind: type, depth: int) -> None:
    if kind is int:
        if not MIN_INT <= value <= MAX_INT:
            raise _RefusedError("an int must lie in -2**63 … 2**64-1")
    elif kind is str:
        if not value.isascii():
            _check_text(value, "text")
    elif kind is float:
        if value - value != 0.0:  # only NaN and the infinities
            raise _RefusedError(f"a float must be finite, not {value}")
    elif kind is dict:
        _check_dict(value, depth + 1)
    elif kind is list:
        _check_list(value, depth + 1)
    elif kind is not bool and value is not None:
        raise _RefusedError(
            f"{kind.__name__} can't be carried as JSON; allowed are dict, list, str, int, "
            "float, bool and None, and no subclasses of these"
        )


def _check_text(text: str, what: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _RefusedError(f"{what} must not hold a lone surrogate") from None
