"""What the system refuses to a process that has too much already."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from offload.errors import BackendUnavailableError

_AT_A_LIMIT = {errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM}


@contextmanager
def limits_told() -> Iterator[None]:
    """Around what makes threads or opens files for the first time.

    Raises:
        BackendUnavailableError: this process may have no more of them now; nothing was stored.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        at_a_limit = (
            error.errno in _AT_A_LIMIT if isinstance(error, OSError) else "new thread" in str(error)
        )
        if not at_a_limit:
            raise
        raise BackendUnavailableError(f"the system gives this process no more: {error}") from error
