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
    """A foreign text (a handler's name, an id, an error), short and on one line."""
    text = text.partition("\n")[0] if text.count("\n") else text
    return plain(text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "…")
