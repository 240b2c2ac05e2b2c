"""The life of a worker as a picture in Mermaid, drawn from the table of its transitions.

python core/tests/picture.py > docs/states.md
"""

from __future__ import annotations

import sys

from offload.engine.states import SEEN, TRANSITIONS

INTRODUCTION = """\
# The life of a worker

This page is drawn from the table in `core/src/offload/engine/states.py`. The `state` of a worker
that is *starting* is still `new`, and of one that is *restarting* still `stopped` (LIFE-4). What
has no arrow can't happen: a `start` where none is allowed raises `AlreadyRunningError`, and changes
nothing (LIFE-3).

```mermaid
stateDiagram-v2
    [*] --> new
"""


def page() -> str:
    """The page, in Markdown."""
    lines = []
    for phase, row in TRANSITIONS.items():
        if phase.value != SEEN[phase].value:
            lines.append(f"    note right of {phase.value}: seen as {SEEN[phase].value}")
        for event, after in row.items():
            if after is not phase:
                lines.append(f"    {phase.value} --> {after.value}: {event.value}")
    return INTRODUCTION + "\n".join(lines) + "\n```\n"


if __name__ == "__main__":
    sys.stdout.write(page())
