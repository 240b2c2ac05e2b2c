"""Which files of a folder the demo reads."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

SKIPPED_FOLDERS = {".git", "__pycache__"}


@dataclass(slots=True)
class Walk:
    """What was found."""

    paths: list[str] = field(default_factory=list)
    """Files, relative to the folder."""
    unreadable: int = 0
    """Files and folders that may not be read, or whose names are no text."""


def walk(folder: Path, databases: Sequence[Path]) -> Walk:
    """Find the regular files below a folder, in an order that stays the same.

    Symbolic links aren't followed; repositories, caches, virtual environments and the files
    of these databases are passed over.
    """
    found = Walk()
    folders = [str(folder)]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                inside = sorted(entries, key=lambda entry: entry.name)
        except OSError:
            found.unreadable += 1
            continue
        inside_folders: list[str] = []
        for entry in inside:
            if entry.is_dir(follow_symlinks=False):
                if entry.name not in SKIPPED_FOLDERS and not _is_virtual_environment(entry.path):
                    inside_folders.append(entry.path)
            elif entry.is_file(follow_symlinks=False) and not _belongs_to(entry.path, databases):
                if _is_text(entry.path) and os.access(entry.path, os.R_OK):
                    found.paths.append(os.path.relpath(entry.path, folder))
                else:
                    found.unreadable += 1
        folders += reversed(inside_folders)
    return found


def _belongs_to(path: str, databases: Sequence[Path]) -> bool:
    """Whether this is such a file, or one that SQLite or a worker puts beside it."""
    here = Path(path)
    return any(
        here.parent == database.parent
        and (here.name == database.name or here.name.startswith(f"{database.name}-"))
        for database in databases
    )


def _is_virtual_environment(path: str) -> bool:
    return Path(path, "pyvenv.cfg").exists()


def _is_text(name: str) -> bool:
    """A name of arbitrary bytes can be opened, but neither carried as JSON nor shown."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
