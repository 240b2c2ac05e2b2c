"""An adapter that hangs fails its test, and the run goes on."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time

import pytest

from offload_conformance.lab import RuleBrokenError
from offload_conformance.limit import Limit

SECONDS = 0.2


def run_within_limit(test) -> str:
    """What is told of a test that takes too long."""
    with asyncio.Runner() as runner:
        limit = Limit(runner.get_loop(), SECONDS)
        with pytest.raises(BaseException) as raised, limit:  # noqa: PT011 - whatever ends it
            runner.run(test())
        assert isinstance(raised.value, KeyboardInterrupt | asyncio.CancelledError)
    with pytest.raises(RuleBrokenError) as told:
        limit.check()
    return str(told.value)


def test_one_that_waits_for_ever():
    async def waits():
        await asyncio.create_task(asyncio.Event().wait(), name="a fetch")

    told = run_within_limit(waits)
    assert "more than 0.2 s" in told
    assert "a fetch waits at" in told


def test_one_that_blocks_the_loop():
    async def blocks():
        while True:
            time.sleep(0.01)

    assert "in blocks" in run_within_limit(blocks)


def test_one_that_is_in_time():
    async def quick():
        await asyncio.sleep(0)

    limit = Limit(seconds=60)
    with limit:
        asyncio.run(quick())
    limit.check()


def test_an_adapter_that_hangs_is_told_of_by_the_kit(tmp_path):
    (tmp_path / "test_hanging.py").write_text(
        "import asyncio\n"
        "async def test_PERF_1_hangs(lab):\n"
        "    await asyncio.Event().wait()\n"
        "async def test_PERF_2_goes_on(lab):\n"
        "    lab.equal('this', 1, 1)\n"
    )
    command = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto")
    done = subprocess.run(
        [*command, "--offload-url", "simple://", "test_hanging.py"],
        cwd=tmp_path,
        env={**os.environ, "OFFLOAD_KIT_DEADLINE": "0.1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "1 failed, 1 passed" in done.stdout
    assert "the test took more than 2 s; it was at:" in done.stdout
    assert "in test_PERF_1_hangs" in done.stdout
