"""Logs the verdicts that a backend refuses: each job once, and only a count when there are many."""

from __future__ import annotations

from time import monotonic

from offload.driver import Settlement
from offload.engine.logs import job_log, shown, shown_error, write
from offload.job import JobContext

MOST_TOLD = 20
"""Jobs named in the log, at most; further ones are only counted."""
REMINDER_SECONDS = 60.0


class Refusals:
    """What has been told since the backend last refused nothing."""

    def __init__(self) -> None:
        self._jobs: set[str] = set()
        self._reasons: set[tuple[type[BaseException], str]] = set()
        self._next_reminder = 0.0

    def tell(self, settlement: Settlement, context: JobContext, error: BaseException) -> None:
        """A verdict can't be stored, because of `error`. A traceback comes once for each reason."""
        if context.id in self._jobs:
            return
        self._jobs.add(context.id)
        if len(self._jobs) > MOST_TOLD:
            self._remind(error)
            return
        reason = (type(error), settlement.verdict.value)
        is_new = reason not in self._reasons
        self._reasons.add(reason)
        write(
            job_log.error,
            "job %s (%s): the backend refuses to %s it; it is tried again, and holds up no other%s",
            *(shown(context.id), shown(context.handler), settlement.verdict.value),
            "" if is_new else f": {shown_error(error)}",
            error=error if is_new else None,
        )

    def end(self) -> None:
        """Everything is settled that was refused."""
        self._jobs.clear()
        self._reasons.clear()
        self._next_reminder = 0.0

    def _remind(self, error: BaseException) -> None:
        now = monotonic()
        if now < self._next_reminder:
            return
        self._next_reminder = now + REMINDER_SECONDS
        line = "the backend refuses the verdicts of %d jobs so far; the last one: %s"
        write(job_log.error, line, len(self._jobs), shown_error(error))
