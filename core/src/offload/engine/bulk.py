"""The jobs of one `perform_many`, which go in several batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from offload.driver import Entry
from offload.engine.outbox import batches, told_how_many
from offload.job import Job


class Bulk:
    """Jobs, the entries made of them, and how many of these are stored by now."""

    def __init__(
        self,
        jobs: Sequence[Job],
        entries: Sequence[Entry],
        stored: Callable[[Sequence[Job], Sequence[Entry]], None],
    ) -> None:
        """`stored` is called with the jobs and the entries of each batch that is safe."""
        self._jobs = jobs
        self._entries = entries
        self._stored = stored
        self._number = 0

    @property
    def ids(self) -> list[str]:
        """Those of all, in order."""
        return [entry.id for entry in self._entries]

    def batches(self) -> Iterator[Sequence[Entry]]:
        """What is sent at once, one after the other."""
        return batches(self._entries)

    @contextmanager
    def storing(self, batch: Sequence[Entry]) -> Iterator[None]:
        """Around the sending of the next batch: an error says how many are stored."""
        try:
            yield
        except Exception as error:
            if not self._number:
                raise
            raise told_how_many(error, self._number, len(self._entries)) from error
        begin, self._number = self._number, self._number + len(batch)
        self._stored(self._jobs[begin : self._number], batch)
