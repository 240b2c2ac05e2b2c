"""The life of a worker, as a table: its phases, what may happen in each, and what comes of it.

An application sees four states. A start is seen only when it has succeeded: until then the worker
is as it was (LIFE-4). A stop is seen at once (LIFE-5), and waits for a start that is under way.
"""

from __future__ import annotations

from enum import Enum

from offload.config import Config
from offload.errors import WorkerStoppedError
from offload.worker import State


class Phase(Enum):
    """Where a worker stands, its unfinished starts told apart."""

    NEW = "new"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    RESTARTING = "restarting"


class Event(Enum):
    """What happens to a worker, in a word that says why its phase changes."""

    START = "start is called"
    STARTED = "it consumes"
    NOT_STARTED = "the start failed"
    STOP = "stop is called"
    DRAINED = "the drain has ended"
    LOOP_CLOSED = "its loop was closed"


TRANSITIONS: dict[Phase, dict[Event, Phase]] = {
    Phase.NEW: {
        Event.START: Phase.STARTING,
        Event.STOP: Phase.STOPPING,
        Event.LOOP_CLOSED: Phase.NEW,
    },
    Phase.STARTING: {
        Event.STARTED: Phase.RUNNING,
        Event.NOT_STARTED: Phase.NEW,
        Event.STOP: Phase.STOPPING,
        Event.LOOP_CLOSED: Phase.NEW,
    },
    Phase.RUNNING: {
        Event.STOP: Phase.STOPPING,
        Event.LOOP_CLOSED: Phase.STOPPED,
    },
    Phase.STOPPING: {
        Event.STARTED: Phase.STOPPING,
        Event.NOT_STARTED: Phase.STOPPING,
        Event.STOP: Phase.STOPPING,
        Event.DRAINED: Phase.STOPPED,
        Event.LOOP_CLOSED: Phase.STOPPED,
    },
    Phase.STOPPED: {
        Event.START: Phase.RESTARTING,
        Event.STOP: Phase.STOPPING,
        Event.LOOP_CLOSED: Phase.STOPPED,
    },
    Phase.RESTARTING: {
        Event.STARTED: Phase.RUNNING,
        Event.NOT_STARTED: Phase.STOPPED,
        Event.STOP: Phase.STOPPING,
        Event.LOOP_CLOSED: Phase.STOPPED,
    },
}
"""What isn't in the row of a phase can't happen in it."""

SEEN: dict[Phase, State] = {
    Phase.NEW: State.NEW,
    Phase.STARTING: State.NEW,
    Phase.RUNNING: State.RUNNING,
    Phase.STOPPING: State.STOPPING,
    Phase.STOPPED: State.STOPPED,
    Phase.RESTARTING: State.STOPPED,
}
"""The state in which an application sees a worker."""


class Life:
    """Where one worker stands. The only place where the table is looked up."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._enter(Phase.NEW)

    def __repr__(self) -> str:
        return f"<offload worker {self._config} {self.state.value}>"

    def _enter(self, phase: Phase) -> None:
        self.phase = phase
        self.state = SEEN[phase]
        """What the application sees."""
        self._performs = self.state not in (State.STOPPING, State.STOPPED)

    def may(self, event: Event) -> bool:
        """Whether this can happen now."""
        return event in TRANSITIONS[self.phase]

    def happens(self, event: Event) -> None:
        """Enter the phase that comes of this."""
        self._enter(TRANSITIONS[self.phase][event])

    def refuse_if_stopped(self) -> None:
        """Say that nothing is performed any more, if that is so (LIFE-5)."""
        if not self._performs:
            raise WorkerStoppedError(
                f"{self!r} performs no more: stop() was called, or its event loop has ended"
            )
