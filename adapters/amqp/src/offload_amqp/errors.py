"""What RabbitMQ reports, in the terms of the contract."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from offload import BackendError, BackendUnavailableError, OffloadError
from offload_amqp.wire import BlockedError, ClosedError, WireError

log = logging.getLogger("offload")

FAILURES = (WireError, OSError)
"""What is raised when the broker, or the way to it, fails; among the latter is TimeoutError."""

ACCESS_REFUSED, NOT_FOUND, PRECONDITION_FAILED, NOT_ALLOWED = 403, 404, 406, 530
NO_LOGIN = "Login was refused"
LIMITS = ("limit", "channel_max")
"""What the broker calls its limits, which others may make room in."""


class MissingError(BackendError):
    """A queue or an exchange is not there."""


def translate(error: BaseException, where: str, *, maybe_stored: bool) -> BackendError:
    """The error to raise for one of the connection's."""
    if isinstance(error, ClosedError):
        if error.code == NOT_FOUND and not maybe_stored:
            cure = "`offload amqp topology` shows what has to be there, and declares it"
            return MissingError(f"{where}: {error}. {cure}")
        refusal = _refusal(error)
        if refusal:
            return BackendError(f"{where}{refusal}")
    if isinstance(error, BlockedError):
        return BackendUnavailableError(
            f"{where} accepts nothing now: it is short of memory, or of disk",
            maybe_stored=maybe_stored,
        )
    if isinstance(error, ClosedError) and "acknowledgement on channel" in error.text:
        reason = (
            f"a job took longer than its consumer_timeout, and runs again: {error}. Raise that "
            "setting and our option of that name, or give the handler a shorter timeout"
        )
    elif isinstance(error, TimeoutError):
        reason = "it doesn't answer in time"
    else:
        reason = str(error) or type(error).__name__
    return BackendUnavailableError(f"{where} is away: {reason}", maybe_stored=maybe_stored)


def _refusal(error: ClosedError) -> str:
    """What is wrong, and how to cure it, if it doesn't pass by itself."""
    if error.code == ACCESS_REFUSED and NO_LOGIN in error.text:
        return " does not accept this user and password"
    if error.code == ACCESS_REFUSED:
        return f": the user lacks a permission: {error.text}"
    if error.code == NOT_ALLOWED and not any(limit in error.text for limit in LIMITS):
        return f" refuses us: there is no such vhost, or the user may not enter it: {error.text}"
    if error.code == PRECONDITION_FAILED and "inequivalent" in error.text:
        return (
            f": a queue is there, and is another than is wanted: {error.text}. "
            "Delete it, or go on with the options with which it was declared"
        )
    return ""


@contextlib.asynccontextmanager
async def translated(
    where: str, timeout: float, *, maybe_stored: bool = False
) -> AsyncIterator[None]:
    """Within it the broker gets so many seconds, and a failure is raised as one of ours."""
    try:
        async with asyncio.timeout(timeout):
            yield
    except FAILURES as error:
        raise translate(error, where, maybe_stored=maybe_stored) from error
    except OffloadError:
        raise
    except Exception as error:  # nothing native leaves the adapter
        log.exception("an unknown error of the connection to %s", where)
        raise translate(error, where, maybe_stored=maybe_stored) from error
