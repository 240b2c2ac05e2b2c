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


def run_pytest(tmp_path, text: str, fixtures: str = "") -> str:
    """What the kit tells of the tests in a file."""
    (tmp_path / "conftest.py").write_text(f"import asyncio, threading, pytest\n{fixtures}")
    goes_on = "async def test_PERF_2_goes_on(lab):\n    lab.equal('this', 1, 1)\n"
    (tmp_path / "test_hanging.py").write_text(f"import asyncio\n{text}{goes_on}")
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
    return done.stdout


def test_an_adapter_that_hangs_is_told_of_by_the_kit(tmp_path):
    test = "async def test_PERF_1_hangs(lab):\n    await asyncio.Event().wait()\n"
    told = run_pytest(tmp_path, test)
    assert "1 failed, 1 passed" in told
    assert "the test took more than 2 s; it was at:" in told
    assert "in test_PERF_1_hangs" in told


STOPS_NEVER = """
async def test_PERF_1_hangs(lab):
    lab.equal("this", 1, 1)

    async def never():
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                pass

    lab.worker().stop = never
"""


def test_an_adapter_that_hangs_when_the_lab_is_closed(tmp_path):
    told = run_pytest(tmp_path, STOPS_NEVER)
    assert "2 passed, 1 error" in told
    assert "the teardown of the test took more than 2 s; it was at:" in told
    assert "in never" in told


HANGING = """
@pytest.fixture
def offload_server(request):
    hangs = "hangs" in request.node.name
    {before}
    yield None
    {after}
"""
HANG = "hangs and threading.Event().wait()"
TEST = "async def test_PERF_1_hangs(lab):\n    lab.equal('this', 1, 1)\n"


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [(HANG, "pass", "1 passed, 1 error"), ("pass", HANG, "2 passed, 1 error")],
)
def test_a_fixture_that_hangs_is_told_as_its_authors(tmp_path, before, after, told):
    output = run_pytest(tmp_path, TEST, HANGING.format(before=before, after=after))
    assert told in output
    assert "PERF-1 is not verified: the fixture offload_server of conftest failed" in output
    assert "took more than 2 s" in output
