"""The command line, `offload`: what an operator does, and a demo to see it all work.

Its libraries come with the extra `offload-core[cli]`; nothing else in the core imports them.
"""

from offload.cli.app import main

__all__ = ["main"]
