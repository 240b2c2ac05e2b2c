"""What Redis and its client report, in the terms of the contract."""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, cast

from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from offload import BackendError, BackendUnavailableError, OffloadError

log = logging.getLogger("offload")

F = TypeVar("F", bound=Callable[..., Coroutine[Any, Any, Any]])

# What a server answers that can't do it now, and did nothing.
_REFUSALS: dict[type[RedisError], str] = {
    OutOfMemoryError: "is out of memory, and refuses to store more",
    ReadOnlyError: "is a read-only replica",
    BusyLoadingError: "is still loading its data",
    MasterDownError: "is a replica that has lost its master",
    ClusterDownError: "is part of a cluster that is down",
}
_REFUSAL_CODES = {
    "OOM": _REFUSALS[OutOfMemoryError],
    "READONLY": _REFUSALS[ReadOnlyError],
    "MASTERDOWN": _REFUSALS[MasterDownError],
    "MISCONF": "refuses to write: it can't save to its disk",
    "NOREPLICAS": "refuses to write: too few replicas are connected",
    "BUSY": "is busy with a script of another program",
}
# At the start of an answer; or, from a script before Redis 7, somewhere in it.
_find_code = re.compile(rf"(?:^|-)({'|'.join(_REFUSAL_CODES)})\b").search


def _refusal(error: BaseException, text: str) -> str | None:
    for kind, meaning in _REFUSALS.items():
        if isinstance(error, kind):
            return meaning
    code = _find_code(text) if isinstance(error, ResponseError) else None
    return code and _REFUSAL_CODES[code[1]]


# The kinds of errors that were logged with their traceback: each outage may bring them again.
_seen: set[tuple[type[BaseException], str]] = set()
MAX_SHOWN = 500
"""Characters of a server's reply that are quoted in an error."""


def is_wrong_type(reply: object) -> bool:
    """Whether a server answered that a key holds something else than we keep there."""
    # From a script before Redis 7, somewhere in the answer.
    return isinstance(reply, ResponseError) and "WRONGTYPE" in str(reply)


def translate(error: BaseException, where: str, *, maybe_stored: bool) -> BackendError:
    """The error to raise for one of the client's, whatever it is."""
    if isinstance(error, (AuthenticationError, AuthorizationError)):
        return BackendError(f"{where} does not accept this user and password")
    if isinstance(error, NoPermissionError):
        return BackendError(f"{where}: the user lacks a permission: {error}")
    text = str(error)[:MAX_SHOWN]
    if refusal := _refusal(error, text):
        maybe_stored = maybe_stored and not isinstance(error, BusyLoadingError)
        return BackendUnavailableError(f"{where} {refusal}", maybe_stored=maybe_stored)
    if isinstance(error, ResponseError):
        return BackendError(f"{where} answered: {text}")
    if isinstance(error, TimeoutError):
        reason = "it doesn't answer in time"
    elif isinstance(error, (OSError, RedisError)):
        reason = text or type(error).__name__
    else:
        reason = f"{type(error).__name__}: {text}"
        _tell_once(error, where)
    return BackendUnavailableError(f"{where} is away: {reason}", maybe_stored=maybe_stored)


def bare(error: BaseException) -> BaseException:
    """The same without the frames of the client, in whose locals is the password."""
    each: BaseException | None = error
    while each is not None:
        each.__traceback__ = None
        each = each.__cause__ or each.__context__
    return error


def translated(method: F) -> F:
    """Let no error leave but ours, though something else than Redis answers.

    It is for methods of objects that have a `where`, the name of the server in errors.
    """

    @functools.wraps(method)
    async def call(self: Any, *args: Any, **options: Any) -> Any:
        try:
            return await method(self, *args, **options)
        except OffloadError:
            raise
        except Exception as error:
            raise translate(error, self.where, maybe_stored=True) from error

    return cast("F", call)


def _tell_once(error: BaseException, where: str) -> None:
    """A client that loses its connection under load raises what nobody foresees."""
    kind = (type(error), str(error)[:MAX_SHOWN])
    if kind not in _seen and len(_seen) < 100:
        _seen.add(kind)
        log.error("%s: an unexpected error of the Redis client", where, exc_info=error)
