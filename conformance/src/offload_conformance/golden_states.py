"""What a release has left in a backend, and a later one takes over: how it is kept in files.

Of each release there are two: `RELEASE.state`, the author's text, and `RELEASE.json`, what must be
found in it. In the text, what differs from run to run is told apart: `<namespace>`, and times as
`<now-1500>` or `<now+1500>`, in milliseconds from the moment at which it was read, or is laid.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

NAMESPACE = "<namespace>"
NEAR_MS = 2 * 86_400_000
"""A number of 13 digits that is no farther from now is a time, in ms since the epoch."""
SHORTEST_NUMBER = 7
"""Digits, of a number or of a hexadecimal one, from which on it may differ from run to run."""

_time = re.compile(r"(?<![0-9A-Za-z])\d{13}(?![0-9A-Za-z])")
_relative = re.compile(r"<now([+-]\d+)>")
_number = re.compile(
    rf"(?<![0-9A-Za-z])(?=[0-9a-f]*\d)[0-9a-f]{{{SHORTEST_NUMBER},}}(?![0-9A-Za-z])"
)


class Left(msgspec.Struct, frozen=True, kw_only=True):
    """What must be found of a job, whatever it is."""

    id: str
    tag: str
    handler: str
    queue: str
    args: dict[str, Any]


class LeftJob(Left, frozen=True, kw_only=True):
    """A job that must run."""

    attempt: int
    """The one that it must run as."""
    due_in_ms: int
    """From the moment at which the state is laid; of what was due by then, 0."""


class LeftLetter(Left, frozen=True, kw_only=True):
    """A dead letter that must be there."""

    attempts: int
    error: str


class Manifest(msgspec.Struct, frozen=True):
    """What must be found in a state."""

    jobs: list[LeftJob]
    dead: list[LeftLetter]

    @property
    def all(self) -> list[Left]:
        """Jobs and dead letters."""
        return [*self.jobs, *self.dead]

    def lines(self) -> bytes:
        """As JSON, with a line for each job."""
        parts = (
            b'"%s": [\n%s\n]' % (name, b",\n".join(map(msgspec.json.encode, each)))
            for name, each in ((b"jobs", self.jobs), (b"dead", self.dead))
        )
        return b"{%s}\n" % b",\n".join(parts)


class GoldenState(msgspec.Struct, frozen=True):
    """What one release has left."""

    release: str
    text: str
    manifest: Manifest

    def at(self, namespace: str, now_ms: float) -> str:
        """The text as it is laid into a namespace at this time."""
        there = self.text.replace(NAMESPACE, namespace)
        return _relative.sub(lambda found: str(round(now_ms) + int(found[1])), there)

    @property
    def form(self) -> list[str]:
        """The lines of the text, without what differs each time that it is made."""
        text = self.text
        for each in self.manifest.all:
            text = text.replace(each.id, f"<id of {each.tag}>")
        text = _relative.sub(lambda found: "<before>" if found[1][0] == "-" else "<later>", text)
        return _number.sub("<number>", text).splitlines()

    def write(self, folder: Path) -> None:
        """Write both files."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{self.release}.state").write_text(self.text, encoding="utf-8")
        (folder / f"{self.release}.json").write_bytes(self.manifest.lines())


def made_portable(text: str, namespace: str, now_ms: float) -> str:
    """A text that an author has read, without the namespace and the time at which it was."""
    now = round(now_ms)

    def relative(found: re.Match[str]) -> str:
        distance = int(found[0]) - now
        return f"<now{distance:+d}>" if abs(distance) <= NEAR_MS else found[0]

    return _time.sub(relative, text.replace(namespace, NAMESPACE))


def recorded(folder: Path) -> list[GoldenState]:
    """The states in a folder, the latest last: numbers in the names of releases count as such."""
    files = sorted(folder.glob("*.state"), key=lambda file: _in_order(file.stem))
    return [
        GoldenState(
            file.stem,
            file.read_text(encoding="utf-8"),
            msgspec.json.decode(file.with_suffix(".json").read_bytes(), type=Manifest),
        )
        for file in files
    ]


def _in_order(release: str) -> list[tuple[bool, int, str]]:
    parts: Iterable[str] = re.findall(r"\d+|\D+", release)
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts]
