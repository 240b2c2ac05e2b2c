"""What an author is told of a test that failed: what became of the jobs, and what was logged."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from offload_conformance.logs import MOST_CHARACTERS, MOST_LINES, KeptLines, Masked

LATE = """
import logging

async def test_PERF_1_never_comes(lab):
    worker = lab.worker()
    await worker.start()
    await lab.perform(worker, "dies", do={"*": [["reject", "out of order"]]})
    await lab.perform(worker, "waits", delay=600)
    await lab.until_dead(worker, 1)
    logging.getLogger("offload.driver").warning("it is slow today")
    await lab.until_started(3)
"""
LATE_LOOK = LATE.replace("lab.until_started(3)", "lab.until_dead(worker, 2)")


def run(folder: Path, text: str, **env: str) -> str:
    (folder / "test_own.py").write_text(text)
    command = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto")
    return subprocess.run(
        [*command, "--offload-url", "simple://", "test_own.py"],
        cwd=folder,
        env={**os.environ, "OFFLOAD_KIT_DEADLINE": "1", **env},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    ).stdout


@pytest.mark.parametrize("text", [LATE, LATE_LOOK])
def test_what_became_of_a_job_that_never_came(tmp_path, text):
    told = run(tmp_path, text)
    assert "1 failed" in told
    assert "states={'worker-1': 'running'}" in told
    assert "'default': {'waiting': 0, 'scheduled': 1, 'running': 0, 'dead': 1}" in told
    assert "after 1: " in told and "out of order" in told
    assert "WARNING it is slow today" in told


LEAVES = """
import asyncio

async def test_PERF_1_leaves(lab):
    lab.equal("this", 1, 1)
    async def lingers():
        await asyncio.Event().wait()
    lab.left = asyncio.create_task(lingers(), name="lingering")
    await asyncio.sleep(0)
"""


def test_what_is_left_behind_is_told_by_its_name_and_place(tmp_path):
    told = run(tmp_path, LEAVES)
    assert "left behind" in told
    assert "task lingering (" in told and "lingers at test_own.py:" in told


# -- what was logged -------------------------------------------------------------------

LOG = logging.getLogger("offload.test")


def test_lines_are_kept_capped_and_without_secrets():
    with KeptLines(Masked("redis://user:s3%2Fcret@host/0?sentinel_password=hush")) as kept:
        LOG.info("too little")
        for number in range(MOST_LINES + 5):
            LOG.warning("line %d", number)
        LOG.error("%s s3/cret s3%%2Fcret hush %s", "x" * (MOST_CHARACTERS - 15), "y" * 500)
    LOG.warning("too late")
    lines = kept.take()
    assert len(lines) == MOST_LINES
    assert lines[0] == "WARNING line 6"
    assert len(lines[-1]) == MOST_CHARACTERS
    assert "***" in lines[-1] and "cret" not in lines[-1]
    assert kept.take() == []


def test_an_error_is_kept_with_its_text():
    with KeptLines(lambda text: text) as kept:
        LOG.error("it failed", exc_info=ValueError("the cause"))
        kept.handle(logging.makeLogRecord({"msg": "%d", "args": ("x",), "levelname": "ERROR"}))
    assert kept.take() == [
        "ERROR it failed: ValueError: the cause",
        "ERROR a line that can't be read: TypeError",
    ]
