"""The Lua scripts: each change of state is one, atomic, and harmless when it comes twice."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files

import msgspec

Argument = str | bytes | int

_FOLDER = files(__package__) / "lua"
_COMMON = (_FOLDER / "common.lua").read_text()


@dataclass(frozen=True, slots=True)
class Script:
    """A script as the server knows it."""

    source: str
    digest: str


def _load(name: str) -> Script:
    source = _COMMON + (_FOLDER / f"{name}.lua").read_text()
    return Script(source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


ENQUEUE = _load("enqueue")
FETCH = _load("fetch")
ACKNOWLEDGE = _load("acknowledge")
SETTLE = _load("settle")
EXTEND = _load("extend")
LEAVE = _load("leave")
LAPSE = _load("lapse")
RECLAIM = _load("reclaim")
COUNT = _load("count")
DEAD_PAGE = _load("dead_page")
REQUEUE = _load("requeue")
DISCARD = _load("discard")
DEAD_SHOW = _load("dead_show")
ADOPT = _load("adopt")
MEND = _load("mend")
PERMISSIONS = _load("permissions")


class Call(msgspec.Struct, frozen=True, gc=False):
    """A script with its keys, all in one slot, and its arguments."""

    script: Script
    keys: tuple[str, ...]
    arguments: tuple[Argument, ...] = ()

    def by_digest(self) -> tuple[Argument, ...]:
        """The command for a server that knows the script."""
        return ("EVALSHA", self.script.digest, len(self.keys), *self.keys, *self.arguments)

    def by_source(self) -> tuple[Argument, ...]:
        """The command for one that doesn't, yet."""
        return ("EVAL", self.script.source, len(self.keys), *self.keys, *self.arguments)
