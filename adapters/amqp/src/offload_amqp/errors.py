"""What RabbitMQ and its client report, in the terms of the contract."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from aiormq.exceptions import (
    AMQPError,
    AuthenticationError,
    ChannelAccessRefused,
    ChannelPreconditionFailed,
    ConnectionNotAllowed,
    InvalidFrameError,
    ProbableAuthenticationError,
)

from offload import BackendError, BackendUnavailableError

FAILURES = (AMQPError, OSError, EOFError, TimeoutError)
"""What the client raises when the broker, or the way to it, fails."""


def translate(error: BaseException, where: str, *, maybe_stored: bool) -> BackendError:
    """The error to raise for one of the client's."""
    if isinstance(error, (AuthenticationError, ProbableAuthenticationError)):
        return BackendError(f"{where} does not accept this user and password")
    if isinstance(error, (ChannelAccessRefused, ConnectionNotAllowed)):
        return BackendError(f"{where}: the user lacks a permission: {error}")
    if isinstance(error, InvalidFrameError):
        return BackendError(
            f"{where} refuses us: there is no such vhost, or the user has no permission for it"
        )
    if isinstance(error, ChannelPreconditionFailed):
        return BackendError(
            f"{where}: a queue is there, and is another than is wanted: {error}. "
            "Delete it, or go on with the options with which it was declared"
        )
    if isinstance(error, TimeoutError):
        reason = "it doesn't answer in time"
    elif isinstance(error, asyncio.CancelledError):
        reason = "the connection was lost"
    else:
        reason = str(error) or type(error).__name__
    return BackendUnavailableError(f"{where} is away: {reason}", maybe_stored=maybe_stored)


@contextlib.asynccontextmanager
async def translated(
    where: str, timeout: float, *, maybe_stored: bool = False
) -> AsyncIterator[None]:
    """Within it the client gets so many seconds, and what it raises is raised as ours.

    A connection that is lost cancels whatever waits for it; to us that is an error like another.
    """
    try:
        async with asyncio.timeout(timeout):
            yield
    except FAILURES as error:
        raise translate(error, where, maybe_stored=maybe_stored) from error
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise translate(error, where, maybe_stored=maybe_stored) from error
