"""Whatever the client library raises on a lost connection is an error of ours, and it ends."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from redis.asyncio.connection import Connection
from redis.connection import Connection as BlockingConnection
from redis.exceptions import InvalidResponse
from support import DEADLINE

import offload
from offload import BackendError, BackendUnavailableError, Job
from offload_conformance.authors import free_port
from offload_redis import errors
from offload_redis.sync_link import SyncLink

ODD = [
    AttributeError("'NoneType' object has no attribute 'write'"),
    RecursionError("maximum recursion depth exceeded"),
    ValueError("invalid literal for int() with base 10: b'x'"),
    IndexError("index out of range"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    RuntimeError("Event loop is closed"),
    TypeError("an integer is required"),
    AssertionError(),
    MemoryError(),
    KeyError("x"),
    InvalidResponse("Protocol Error: b'x'"),
    EOFError(),
    asyncio.IncompleteReadError(b"", 5),
    asyncio.CancelledError(),
]


@pytest.fixture(autouse=True)
def nothing_seen(monkeypatch):
    monkeypatch.setattr(errors, "_seen", set())


@pytest.mark.parametrize("step", ["connect", "send_packed_command", "read_response"])
@pytest.mark.parametrize("error", ODD, ids=lambda error: type(error).__name__)
async def test_perf_8_no_native_error_leaves_the_driver(make, monkeypatch, caplog, error, step):
    worker = make(timeout="2s")
    await worker.perform(Job("note"))

    async def fail(*_, **__):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(Connection, step, fail)
        if step == "connect":
            await worker._driver._link.drop()
        for call in (worker.perform(Job("note")), worker.counts(), worker.dead_letters.list()):
            with pytest.raises(BackendUnavailableError) as caught:
                await call
            assert type(error).__name__ in str(caught.value) or str(error) in str(caught.value)
    told = [each for each in caplog.records if "unexpected error" in each.message]
    assert len(told) <= 1, "each outage brings them again"
    assert all(each.exc_info for each in told)
    await worker.perform(Job("note"))
    assert (await worker.counts())["default"].waiting in (2, 3)


@pytest.mark.parametrize("step", ["connect", "recv"])
@pytest.mark.parametrize("error", ODD[:-1], ids=lambda error: type(error).__name__)
async def test_perf_8_no_native_error_reaches_a_thread(make, monkeypatch, error, step):
    worker = make(timeout="2s")
    await asyncio.to_thread(worker.sync.perform, Job("note"))
    link = worker._driver._way_in.driver._link

    def fail(*_, **__):
        raise error

    with monkeypatch.context() as patch:
        if step == "connect":
            patch.setattr(BlockingConnection, "connect", fail)
            link._disconnect()
        else:
            patch.setattr(SyncLink, "_receive", fail)
        with pytest.raises(BackendUnavailableError) as caught:
            await asyncio.to_thread(worker.sync.perform, Job("note"))
        assert caught.value.maybe_stored == (step == "recv")
    await asyncio.to_thread(worker.sync.perform, Job("note"))
    # What was sent is stored, though no answer was read: as the error said that it may be.
    assert (await worker.counts())["default"].waiting == (3 if step == "recv" else 2)


async def test_a_perform_goes_on_over_an_unforeseen_error_of_an_old_connection(make, monkeypatch):
    """As asyncio's transports raise, on Python 3.12, when the other end is gone already."""
    worker = make()
    await worker.perform(Job("note"))
    failed = []
    original = Connection.send_packed_command

    async def fail_once(connection, *args, **options):
        if not failed:
            failed.append(1)
            raise AttributeError("'NoneType' object has no attribute 'send'")
        await original(connection, *args, **options)

    monkeypatch.setattr(Connection, "send_packed_command", fail_once)
    await worker.perform(Job("note"))
    assert failed
    assert (await worker.counts())["default"].waiting == 2


async def test_a_cancelled_perform_is_cancelled(make, monkeypatch):
    worker = make()
    await worker.counts()

    async def hang(*_, **__):
        await asyncio.Event().wait()

    monkeypatch.setattr(Connection, "read_response", hang)
    looking = asyncio.create_task(worker.counts())
    await asyncio.sleep(0)
    looking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await looking


ANSWERS = [
    b"*-5\r\n",
    b":abc\r\n",
    b"*1\r\n" * 20_000,
    b"\xff\xff\xff\r\n",
    b"$-5\r\n",
    b"$abc\r\n",
    b"+" + b"x" * 100_000 + b"\r\n",
    b"HTTP/1.1 400 Bad Request\r\n\r\n",
    b"-\r\n",
    b"-\xff\xfe\r\n",
    b"-MOVED\r\n",
    b"-MOVED x y z\r\n",
    b"-ASK 1 nowhere\r\n",
    b"",
    b"\r\n",
    b"%2\r\n",
    b"_\r\n",
]


@pytest.mark.parametrize("answer", ANSWERS, ids=range(len(ANSWERS)))
@pytest.mark.parametrize("scheme", ["redis", "redis+cluster"])
async def test_perf_8_something_else_answers(make, scheme, answer):
    async def serve(reader, writer):
        with contextlib.suppress(OSError):
            await reader.read(1)
            writer.write(answer)
            await writer.drain()
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    worker = make(f"{scheme}://127.0.0.1:{port}", timeout="1s")
    began = time.monotonic()
    for call in (worker.perform(Job("note")), worker.start(), worker.counts()):
        with pytest.raises(BackendError) as caught:
            await call
        assert len(str(caught.value)) < 1000
    assert time.monotonic() - began < 10
    server.close()


# -- loops that are closed -------------------------------------------------------


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def without_collector():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


# uvloop warns of what is open when it is closed; where that is an error, it hangs for ever.
ignoring_uvloop = pytest.mark.filterwarnings(
    "ignore:unclosed resource:ResourceWarning", "ignore:loop is closed:ResourceWarning"
)


@ignoring_uvloop
@pytest.mark.parametrize("what", ["perform", "start"])
def test_life_10_many_loops_leave_no_descriptor(server, space, without_collector, what):
    """As a program does that calls `asyncio.run` for each request, and waits for no collector."""
    worker = offload.connect(f"{server.url}?namespace={space}&grace=1s")

    async def perform():
        await worker.perform(Job("note"))

    async def start():
        await worker.start()
        await worker.perform(Job("note", queue="other"))

    turns = {"perform": 100, "start": 10}[what]
    asyncio.run(locals()[what]())
    before = descriptors()
    for _ in range(turns):
        asyncio.run(locals()[what]())
    after = descriptors()
    asyncio.run(worker.stop())
    assert after <= before + 2
    assert descriptors() <= before


@ignoring_uvloop
def test_a_waker_of_a_loop_that_was_closed_without_a_word(server, space):
    """Its tasks are neither done nor will they ever be."""
    worker = offload.connect(f"{server.url}?namespace={space}&grace=1s")
    loop = asyncio.new_event_loop()
    loop.run_until_complete(worker.start())
    loop.run_until_complete(asyncio.sleep(0.05))
    tasks = asyncio.all_tasks(loop)
    loop.close()
    assert any(task.get_name() == "offload-redis-wake" for task in tasks)
    for task in tasks:
        task._log_destroy_pending = False
    began = time.monotonic()
    asyncio.run(worker.counts())
    assert time.monotonic() - began < 3
    asyncio.run(worker.stop())
    for task in tasks:
        with contextlib.suppress(BaseException):
            task.get_coro().close()


# -- forked children -------------------------------------------------------------

PARENT = textwrap.dedent(
    """
    import asyncio, os, sys, time, offload

    worker = offload.connect(sys.argv[1])

    @worker.handler("fork")
    async def fork(args):
        await asyncio.sleep(0.5)  # its leases are extended, too
        if os.fork() == 0:
            print("child", os.getpid(), flush=True)
            os.close(1)
            time.sleep(60)
            os._exit(0)

    async def main():
        await worker.start()
        await worker.perform(offload.Job("fork"))
        await asyncio.Event().wait()

    asyncio.run(main())
    """
)


async def test_dur_2_a_child_that_outlives_its_parent_holds_no_connection(
    start_server, clients, space
):
    """The server sees the parent's end, though a child of a handler lives on."""
    server = await start_server()
    client = clients(server.port)
    child = 0
    command = [sys.executable, "-c", PARENT, f"{server.url}?namespace={space}&lease=1s"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        try:
            line = await asyncio.to_thread(parent.stdout.readline)
            child = int(line.split()[1])
            assert len(client.client_list()) > 3
            parent.kill()
            async with asyncio.timeout(5):
                while len(client.client_list()) > 1:
                    await asyncio.sleep(0.02)
            os.kill(child, 0)  # it lives
        finally:
            parent.kill()
            if child:
                os.kill(child, signal.SIGKILL)


FORK = textwrap.dedent(
    """
    import asyncio, os, sys, offload

    driver = offload.connect(sys.argv[1])._driver
    loop = asyncio.new_event_loop()
    loop.run_until_complete(driver.open())

    def enqueue(*ids):
        for each in ids:
            entry = offload.Entry(each, "default", b"x")
            loop.run_until_complete(driver.enqueue([entry]))

    enqueue("before")
    child = os.fork()
    if not child:
        loop = asyncio.new_event_loop()  # and the connections of the old one are left alone
        enqueue("child-1")
        os._exit(0)
    os.waitpid(child, 0)
    enqueue("parent-1", "parent-2")
    """
)


def test_perf_1_a_fork_of_a_driver_that_is_open(server, space, store, keys):
    """Parent and child number their calls alike, and must not be taken for each other."""
    command = [sys.executable, "-c", FORK, f"{server.url}?namespace={space}"]
    subprocess.run(command, check=True, timeout=DEADLINE)
    stored = [entry.split()[0].decode() for entry in store.lrange(keys.ready, 0, -1)]
    wanted = ["before", "child-1", "parent-1", "parent-2"]
    assert stored == wanted


# -- TLS -------------------------------------------------------------------------


async def test_files_of_a_config_string_are_those_of_where_it_was_read(
    make, start_server, tmp_path, monkeypatch, recorder
):
    """A handler may change the working directory before the next connection is made."""
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    (tmp_path / "certs").mkdir()
    monkeypatch.chdir(tmp_path / "certs")
    files = ["-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run([*command.split(), *subject, *files], check=True, capture_output=True)
    folder = Path.cwd()
    await start_server(
        *("--tls-port", str(port := free_port()), "--tls-auth-clients", "yes"),
        *("--tls-cert-file", f"{folder}/cert.pem", "--tls-key-file", f"{folder}/key.pem"),
        *("--tls-ca-cert-file", f"{folder}/cert.pem"),
    )
    names = {"ssl_ca_certs": "cert.pem", "ssl_certfile": "./cert.pem", "ssl_keyfile": "key.pem"}
    worker = make(f"rediss://localhost:{port}", lease="1s", **names)
    worker.register("note", recorder.note)
    monkeypatch.chdir("/")
    await worker.start()
    await worker.perform(Job("note"))
    await recorder.until_started(1)


@pytest.mark.parametrize("option", ["ssl_ca_certs", "ssl_certfile", "ssl_keyfile"])
@pytest.mark.parametrize("path", ["/no/such/file", "/"])
def test_conf_3_a_file_that_is_none(option, path):
    with pytest.raises(offload.ConfigError, match=f"{option}.*the path of a file"):
        offload.connect(f"rediss://localhost?{option}={path}")


def test_conf_3_a_path_that_no_socket_can_have():
    with pytest.raises(offload.ConfigError, match="107 bytes"):
        offload.connect(f"unix:///{'x' * 107}")
    offload.connect(f"unix:///{'x' * 106}")
