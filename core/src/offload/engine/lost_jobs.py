"""Jobs that end with the memory they were in: each is named in the log (LIFE-13)."""

from __future__ import annotations

from collections.abc import Sequence

from offload.config import Config
from offload.engine.logs import job_log, write

LOST_IN_A_LINE = 50
"""How many ids of lost jobs the log names in one line: a backlog can be long."""


def name_lost(lost: Sequence[str]) -> None:
    """Those that are lost unless their worker starts again."""
    for begin in range(0, len(lost), LOST_IN_A_LINE):
        ids = lost[begin : begin + LOST_IN_A_LINE]
        write(job_log.warning, "lost unless this worker starts again: %s", ", ".join(ids))


def name_lost_with_process(lost: Sequence[str], config: Config, never: str) -> None:
    """Those of a worker that nobody has `never`."""
    if lost:
        shown = ", ".join(lost[:LOST_IN_A_LINE])
        job_log.warning(
            f"%d jobs on %s are lost with this process, in which no worker was {never}: %s",
            *(len(lost), config, shown),
        )
