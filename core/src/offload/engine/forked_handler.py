"""A handler that forks: its child ends where the handler does, as that of `multiprocessing`.

Were it to go on, it would be a second worker on the sockets, the pipes and the very
selector of the first, which would never hear of anything again.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback

from offload.job import JobContext, running_job

_forked_in: JobContext | None = None
"""In a child: the job whose handler has made it, if one has."""


def _note() -> None:
    global _forked_in
    _forked_in = running_job.get(None)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note)


def end_child_of(context: JobContext | None, error: BaseException | None) -> None:
    """End this process, if it was forked in the handler of this job; `error` is what that raised.

    Its exit code is that of a program which ends likewise.
    """
    if _forked_in is None or _forked_in is not context:
        return
    code = 0
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    elif error is not None:
        code = 1
        with contextlib.suppress(BaseException):
            traceback.print_exception(error)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BaseException):
            stream.flush()
    os._exit(code)
