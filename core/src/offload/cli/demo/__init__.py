"""`offload demo`: the main job on real input, as a person would do it with this library.

command     the command: what to read, on which backend, and what to say at the end
walk        which files there are
reading     what is found out about one
ledger      what was planned and what is known, exactly once, over every kill
handlers    the jobs
conductor   performs them, and sees that each is accounted for
tally       what an observer of the worker sees
screen      how it looks
"""

from offload.cli.demo.command import demo

__all__ = ["demo"]
