"""What the engine logs while jobs depend on it: a logger that fails costs no job.

Filters, handlers and formatters are the application's, and may raise.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import Any

from offload.text import plain

engine_log = logging.getLogger("offload")
job_log = logging.getLogger("offload.job")

MAX_SHOWN = 300
"""Characters of a foreign text in a line."""


def write(
    log: Callable[..., None], text: str, *args: Any, error: BaseException | None = None
) -> None:
    """Log a line, with the traceback of an error; whatever that raises ends here."""
    with contextlib.suppress(BaseException):
        log(text, *args, exc_info=error)


def write_traceback(log: logging.Logger, text: str, *args: Any, trace: str) -> None:
    """Log an error with a traceback that is text already: a record that is kept keeps no frame."""
    with contextlib.suppress(BaseException):
        if log.isEnabledFor(logging.ERROR):
            record = log.makeRecord(log.name, logging.ERROR, __file__, 0, text, args, None)
            record.exc_text = trace or None
            log.handle(record)


def shown(text: str) -> str:
    """A foreign text (a handler's name, an id), short and on one line."""
    if not isinstance(text, str):
        return f"<{type(text).__name__}>"  # a driver's mistake
    return plain(text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "…")


def first_line(text: str) -> str:
    """Of an error, whose other lines come with its traceback; as `shown`."""
    return shown(text.partition("\n")[0] if isinstance(text, str) else text)


def shown_error(error: BaseException) -> str:
    """The text of an error, likewise; what a server says may be in it. Never raises."""
    try:
        return first_line(str(error))
    except BaseException:
        return "its text can't be read"
