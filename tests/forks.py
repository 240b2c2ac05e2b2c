"""A program whose threads perform while it forks, and whose children perform, too."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import os, sys, threading, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads: what this is about
import offload
worker = offload.connect(sys.argv[1])
job = offload.Job("note")
worker.sync.perform(job)
over = threading.Event()
performed = []
def perform():
    while not over.is_set():
        worker.sync.perform(job)
        performed.append(1)
threads = [threading.Thread(target=perform) for _ in range(4)]
for thread in threads: thread.start()
children = []
for _ in range(10):
    while len(performed) < 50 * len(children): over.wait(0.001)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            for _ in range(3): worker.sync.perform(job)
            worker.sync.stop()
            code = 0
        finally:
            os._exit(code)
    children.append(child)
codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
over.set()
for thread in threads: thread.join()
worker.sync.perform(job)
worker.sync.stop()
assert codes == [0] * len(children), codes
print(2 + len(performed) + 3 * len(children))
"""


def perform_amid_forks(url: str, seconds: float = 100.0) -> int:
    """Run it, and return how many jobs it has performed; none of its children may hang."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, url],
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)
