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
    (told,) = Belongings.now().more_than(before)
    assert told.startswith("task forgotten (sleep at ")
    task.cancel()
    await asyncio.wait([task])
    assert Belongings.now().more_than(before) == []


async def test_where_a_task_waits_is_told():
    before = Belongings.now()

    async def forgotten():
        await asyncio.Event().wait()

    task = asyncio.create_task(forgotten(), name="forgotten")
    await asyncio.sleep(0)
    (told,) = Belongings.now().more_than(before)
    assert "forgotten at test_leaks.py:" in told
    task.cancel()
    await asyncio.wait([task])


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
        host, port = server.sockets[0].getsockname()
        (_, socket) = sorted(Belongings.now().more_than(before), key=lambda each: "socket:" in each)
        assert f"({host}:{port} to nobody)" in socket
        server.close()
    await asyncio.sleep(0)
    assert Belongings.now().more_than(before) == []


async def test_a_second_task_of_a_name():
    first = asyncio.create_task(asyncio.sleep(60), name="twin")
    before = Belongings.now()
    second = asyncio.create_task(asyncio.sleep(60), name="twin")
    (told,) = Belongings.now().more_than(before)
    assert told.startswith("task twin (sleep at ")
    first.cancel()
    await asyncio.wait([first])
    assert Belongings.now().more_than(before) == []
    second.cancel()


async def test_a_second_thread_of_a_name():
    ended = threading.Event()
    first, second = (threading.Thread(target=ended.wait, name="twin") for _ in range(2))
    first.start()
    before = Belongings.now()
    second.start()
    assert Belongings.now().more_than(before) == ["thread twin"]
    ended.set()
    first.join()
    second.join()


async def test_what_asyncio_keeps_for_all_is_no_leak():
    before = Belongings.now()
    await asyncio.to_thread(int)
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", "input()", stdin=-1)
    found = Belongings.now().more_than(before)
    assert [name for name in found if not name.startswith("file ")] == []
    process.kill()
    await process.communicate()


async def test_what_is_gone_is_no_leak():
    task = asyncio.create_task(asyncio.sleep(60), name="early")
    before = Belongings.now()
    task.cancel()
    await asyncio.wait([task])
    assert Belongings.now().more_than(before) == []
