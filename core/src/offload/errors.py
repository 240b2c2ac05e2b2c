"""Every error that Offload raises: one flat tree, named for what went wrong.

A `UsageError` is the caller's to mend; a `BackendError` is the backend's, and
the same call may succeed later. Nothing was stored when a call raised, unless
the error's `maybe_stored` is True.
"""

from __future__ import annotations


class OffloadError(Exception):
    """Root of all errors of Offload.

    `maybe_stored` is True when the call may have taken effect all the same, or in part.
    """

    maybe_stored: bool = False


class UsageError(OffloadError):
    """The call or its configuration is wrong; repeating it can't help."""


class ConfigError(UsageError):
    """The config string is malformed, or an option or its value isn't allowed (CONF-3)."""


class UnknownAdapterError(UsageError):
    """No usable adapter for the scheme of the config string (CONF-2, CONF-4)."""


class InvalidJobError(UsageError, ValueError):
    """A job that can't be performed as it stands: its names, args or time (PERF-4, ARGS-4)."""


class JobTooLargeError(UsageError):
    """The args exceed the backend's `max_job_bytes` (ARGS-5)."""


class UnknownHandlerError(UsageError):
    """No such handler here, and no other process could have it (PERF-6)."""


class UnknownQueueError(UsageError):
    """The worker doesn't consume that queue, and no other process could (QUE-2)."""


class DuplicateHandlerError(UsageError):
    """The name has a handler already; the first one stays (REG-3)."""


class AlreadyRunningError(UsageError):
    """`start` on a worker that runs or is still draining (LIFE-3)."""


class WorkerStoppedError(UsageError):
    """A perform after `stop` was called (LIFE-5)."""


class UnsupportedError(UsageError):
    """The adapter doesn't claim what was asked of it; nothing was done."""


class BackendError(OffloadError):
    """The backend refused or failed."""


class BackendUnavailableError(BackendError):
    """The backend can't be reached or can't accept work now (LIFE-4, PERF-8)."""

    def __init__(self, message: str, *, maybe_stored: bool = False) -> None:
        super().__init__(message)
        self.maybe_stored = maybe_stored
