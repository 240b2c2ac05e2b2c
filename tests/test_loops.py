"""Tests and the processes that they start run on the loop that was asked for."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import asyncio, loops
loops.use_test_loop()
async def main(): print(type(asyncio.get_running_loop()).__module__)
asyncio.run(main())
"""


@pytest.mark.parametrize(("wanted", "module"), [("asyncio", "asyncio"), ("uvloop", "uvloop")])
def test_a_process_runs_on_the_loop_that_was_asked_for(wanted: str, module: str) -> None:
    environment = {**os.environ, "OFFLOAD_TEST_LOOP": wanted}
    command = [sys.executable, "-c", CODE]
    folder = Path(__file__).parent
    out = subprocess.check_output(command, env=environment, cwd=folder, text=True)
    assert out.partition(".")[0].strip() == module


def test_an_unknown_loop_is_refused() -> None:
    environment = {**os.environ, "OFFLOAD_TEST_LOOP": "gevent"}
    command = [sys.executable, "-c", CODE]
    folder = Path(__file__).parent
    ended = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    assert ended.returncode == 1
    assert "asyncio or uvloop, not 'gevent'" in ended.stderr


async def test_the_tests_run_on_the_loop_that_was_asked_for() -> None:
    wanted = os.environ.get("OFFLOAD_TEST_LOOP") or "asyncio"
    assert type(asyncio.get_running_loop()).__module__.partition(".")[0] == wanted
