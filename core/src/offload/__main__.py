"""`python -m offload`: the command line, also where no script is on the path."""

from __future__ import annotations

import sys

EXTRA = ("click", "rich", "pythonjsonlogger")
"""What the command line needs, and `offload-core` alone doesn't bring."""


def main() -> None:
    """Run the command line, or say what it lacks."""
    try:
        from offload.cli import main as command_line
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in EXTRA:
            raise
        sys.exit(
            f"Error: the command line needs {missing}, which is not installed. "
            "To install it: pip install 'offload-core[cli]'"
        )
    command_line()


if __name__ == "__main__":
    main()
