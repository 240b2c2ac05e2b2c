"""The order of dead letters, and the cursors that stand for a place in it."""

from __future__ import annotations

import zlib
from collections import Counter
from dataclasses import dataclass, replace
from urllib.parse import quote, unquote

from offload import UsageError
from offload_amqp.letters import died_in
from offload_amqp.messages import id_of
from offload_amqp.wire import Incoming

UNKNOWN = 1 << 62
"""Stands for the time of a letter that doesn't tell: such letters come last, whatever joins."""

Place = tuple[int, str, str, int, int]
"""When it died (ms since the epoch), id, queue, checksum of the body; then a number, for copies."""


class Places:
    """Finds the places of the letters of one look."""

    def __init__(self) -> None:
        self._copies: Counter[tuple[int, str, str, int]] = Counter()

    def of(self, message: Incoming, queue: str) -> Place:
        """The place of a letter. Copies that differ in nothing have one each."""
        died = died_in(message.headers) or UNKNOWN
        same = (died, id_of(message), queue, zlib.crc32(message.body))
        self._copies[same] += 1
        return (*same, self._copies[same])


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far a list has come, among the letters with a time and among those without.

    It needs both: a letter with a time, which joins while the last are listed, is listed yet.
    """

    timed: Place | None = None
    untimed: Place | None = None

    def is_before(self, place: Place) -> bool:
        """Whether a letter at that place is still to be listed."""
        passed = self.untimed if place[0] == UNKNOWN else self.timed
        return passed is None or passed < place

    def at(self, place: Place) -> Cursor:
        """The cursor when the letter at that place has been listed."""
        if place[0] == UNKNOWN:
            return replace(self, untimed=place)
        return replace(self, timed=place)

    def __str__(self) -> str:
        return f"{_text(self.timed)}:{_text(self.untimed)}".removesuffix(":")

    @classmethod
    def parse(cls, text: str | None) -> Cursor:
        """Read a cursor; none stands before the first letter.

        Raises:
            UsageError: that is no cursor of ours.
        """
        if text is None:
            return cls()
        try:
            timed, _, untimed = text.partition(":")
            cursor = cls(_place(timed), _place(untimed))
            is_ours = str(cursor) == text and cursor.is_sound
        except ValueError:
            is_ours = False
        if not is_ours:
            raise UsageError(f"after: {text!r} is not the cursor of a dead letter")
        return cursor

    @property
    def is_sound(self) -> bool:
        """Whether each of its places is of its kind, and there is one."""
        timed, untimed = self.timed, self.untimed
        return (timed or untimed) is not None and (
            (timed is None or timed[0] < UNKNOWN) and (untimed is None or untimed[0] == UNKNOWN)
        )


def _text(place: Place | None) -> str:
    if place is None:
        return ""
    died, job_id, queue, checksum, number = place
    return f"{died}/{quote(job_id, safe='')}/{queue}/{checksum:x}/{number}"


def _place(text: str) -> Place | None:
    if not text:
        return None
    died, job_id, queue, checksum, number = text.split("/")
    return int(died), unquote(job_id), queue, int(checksum, 16), int(number)
