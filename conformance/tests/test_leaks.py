"""What a worker leaves behind is found."""

from __future__ import annotations

import asyncio
import sys
import threading

import pytest

from offload_conformance.leaks import Belongings


async def test_nothing():
    assert Belongings.now().more_than(Belongings.now()) == []


async def test_a_task():
    before = Belongings.now()
    task = asyncio.create_task(asyncio.sleep(60), name="forgotten")
    assert Belongings.now().more_than(before) == ["task forgotten"]
    task.cancel()
    await asyncio.wait([task])
    assert Belongings.now().more_than(before) == []


async def test_a_thread():
    before = Belongings.now()
    ended = threading.Event()
    thread = threading.Thread(target=ended.wait, name="forgotten")
    thread.start()
    assert Belongings.now().more_than(before) == ["thread forgotten"]
    ended.set()
    thread.join()
    assert Belongings.now().more_than(before) == []


@pytest.mark.skipif(sys.platform != "linux", reason="files are known on Linux only")
async def test_a_file_and_a_socket(tmp_path):
    before = Belongings.now()
    with (tmp_path / "forgotten").open("w"):
        (found,) = Belongings.now().more_than(before)
        assert found.startswith("file ") and found.endswith("/forgotten")
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        assert len(Belongings.now().more_than(before)) == 2
        server.close()
    await asyncio.sleep(0)
    assert Belongings.now().more_than(before) == []


async def test_what_is_gone_is_no_leak():
    task = asyncio.create_task(asyncio.sleep(60), name="early")
    before = Belongings.now()
    task.cancel()
    await asyncio.wait([task])
    assert Belongings.now().more_than(before) == []
