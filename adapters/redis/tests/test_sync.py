"""`worker.sync` performs over a plain connection of the calling thread, and never hangs there."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import threading
import time

import pytest
from forks import perform_amid_forks
from support import DEADLINE

import offload
from offload import BackendError, BackendUnavailableError, Job, forking
from offload_conformance.authors import free_port
from offload_redis import scripts, sync_driver
from offload_redis.driver import RedisDriver
from offload_redis.sync_link import SyncLink

BEFORE, AFTER = False, True
"""The request reaches the server, or it is carried out and its answer doesn't come back."""
ENQUEUE = scripts.ENQUEUE.digest.encode()


def in_thread(call, *args):
    """A call of `worker.sync`, from a thread: the wire needs the loop of the test."""
    return asyncio.wait_for(asyncio.to_thread(call, *args), DEADLINE)


async def told(call, *args) -> BackendUnavailableError:
    """The error of a call that must raise it, and within its time."""
    began = time.monotonic()
    with pytest.raises(BackendUnavailableError) as caught:
        await in_thread(call, *args)
    assert time.monotonic() - began < 3
    return caught.value


@contextlib.asynccontextmanager
async def serving(serve):
    """Something that listens and is no Redis; gives its port, and `serve` an event for its end."""
    over, tasks = asyncio.Event(), set()

    async def greet(reader, writer):
        tasks.add(asyncio.current_task())
        with contextlib.suppress(OSError):
            await serve(reader, writer, over)
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            over.set()
            if tasks:
                await asyncio.wait(tasks)


def waiting(store, keys) -> int:
    return store.llen(keys.ready)


# -- the way ---------------------------------------------------------------------


async def test_jobs_run_that_were_performed_without_any_loop(make, server, space, recorder):
    performer = offload.connect(f"{server.url}?namespace={space}")
    before = set(threading.enumerate())
    ids = [performer.sync.perform(Job("note", {"n": 1}))]
    ids += performer.sync.perform_many([Job("note")] * 250)
    ids.append(performer.sync.perform_in(Job("note"), 0.1))
    assert set(threading.enumerate()) == before
    assert performer.loop is None
    assert "power loss" in performer.claims.notes["durable"]
    worker = make()
    worker.register("note", recorder.note)
    await worker.start()
    await recorder.until_started(252)
    assert [job.id for job in recorder.started if job.id != ids[-1]] == ids[:-1]
    await performer.stop()


async def test_many_threads_lose_and_double_nothing(make, store, keys):
    worker = make()
    ids: list[str] = []

    def perform():
        ids.extend(worker.sync.perform(Job("note")) for _ in range(100))

    await asyncio.gather(*(in_thread(perform) for _ in range(8)))
    stored = [entry.split(b" ")[0].decode() for entry in store.lrange(keys.ready, 0, -1)]
    assert sorted(stored) == sorted(ids)


async def test_it_wakes_an_idle_worker_at_once(make, recorder):
    worker = make()
    worker.register("note", recorder.note)
    await worker.start()
    for number in range(1, 11):  # one that isn't woken looks once a second
        began = time.monotonic()
        await in_thread(worker.sync.perform, Job("note"))
        await recorder.until_started(number)
        if time.monotonic() - began < 0.5:
            return
    pytest.fail("it was never woken in time")


async def test_a_stop_leaves_no_connection(make, server, store):
    def names():
        return {client["id"] for client in store.client_list()}

    before = names()
    worker = make()
    await in_thread(worker.sync.perform, Job("note"))
    assert len(names() - before) == 1
    await in_thread(worker.sync.stop)
    async with asyncio.timeout(DEADLINE):
        while names() - before:
            await asyncio.sleep(0.01)


async def test_a_worker_that_is_forgotten_leaves_no_number_to_a_forked_child(server, space):
    """Its socket is closed, and what a child must not keep is another file by then."""
    before = dict(forking._closed_in_child)
    offload.connect(f"{server.url}?namespace={space}").sync.perform(Job("note"))
    gc.collect()
    assert dict(forking._closed_in_child) == before


async def test_a_socket_file(make, start_server, tmp_path):
    await start_server("--unixsocket", f"{tmp_path}/a b.sock")
    worker = make(f"unix://{tmp_path}/a%20b.sock", db=1)
    await in_thread(worker.sync.perform, Job("note"))
    assert (await worker.counts())["default"].waiting == 1


async def test_too_few_replicas(make):
    worker = make(wait_replicas=1, timeout="300ms")
    error = await told(worker.sync.perform, Job("note"))
    assert error.maybe_stored and "0 replicas" in str(error)


async def test_without_hiredis_it_goes_by_the_loop(make, monkeypatch):
    monkeypatch.setattr(sync_driver, "CAN_BLOCK", False)
    worker = make()
    assert type(worker._driver) is RedisDriver
    await in_thread(worker.sync.perform, Job("note"))
    assert (await in_thread(worker.sync.counts))["default"].waiting == 1
    await in_thread(worker.sync.stop)


# -- what a user sees of an outage -------------------------------------------------


async def test_nobody_listens(make):
    worker = make("redis://127.0.0.1:1", timeout="300ms")
    for call in (worker.sync.perform, lambda job: worker.sync.perform_many([job] * 2000)):
        error = await told(call, Job("note"))
        assert not error.maybe_stored
        assert "is away" in str(error)


async def test_a_server_that_was_started_again(start_server, make):
    server = await start_server("--appendonly", "yes", "--appendfsync", "always")
    worker = make(server.url)
    first = await in_thread(worker.sync.perform, Job("note"))
    await server.kill()
    error = await told(worker.sync.perform, Job("note"))
    assert error.maybe_stored  # it was sent on the old connection, for all that is known
    assert not (await told(worker.sync.perform, Job("note"))).maybe_stored
    await server.start()
    second = await in_thread(worker.sync.perform, Job("note"))
    await server.kill()
    await server.start()
    third = await in_thread(worker.sync.perform, Job("note"))
    assert len({first, second, third}) == 3
    assert (await worker.counts())["default"].waiting == 3


async def test_a_connection_that_was_cut_meanwhile_costs_nothing(make, wire, store, keys):
    worker = make(wire.url)
    for number in range(1, 4):
        await in_thread(worker.sync.perform, Job("note"))
        assert waiting(store, keys) == number
        assert wire.reset()


@pytest.mark.parametrize("answered", [BEFORE, AFTER])
async def test_a_call_that_is_cut_is_sent_again_and_stored_once(make, wire, store, keys, answered):
    worker = make(wire.url)
    await in_thread(worker.sync.perform, Job("note"))
    trap = wire.trap(ENQUEUE, answered=answered)
    await in_thread(worker.sync.perform_many, [Job("note")] * 250)
    assert trap.struck.is_set()
    assert waiting(store, keys) == 251


@pytest.mark.parametrize("answered", [BEFORE, AFTER])
async def test_a_lost_answer_may_hide_a_stored_job(make, wire, store, keys, answered):
    worker = make(wire.url)
    await in_thread(worker.sync.perform, Job("note"))
    wire.trap(ENQUEUE, lambda: setattr(wire, "refusing", True), answered=answered)
    error = await told(worker.sync.perform, Job("note"))
    assert error.maybe_stored
    assert waiting(store, keys) == 1 + answered
    wire.refusing = False
    await in_thread(worker.sync.perform, Job("note"))
    assert waiting(store, keys) == 2 + answered


@pytest.mark.parametrize("count", [1, 100, 1000, 20_000])
async def test_a_batch_that_is_cut_amid_its_bytes_is_stored_whole_or_not(
    make, wire, store, keys, count
):
    worker = make(wire.url)
    await in_thread(worker.sync.perform, Job("note"))
    wire.cut_request = count
    await in_thread(worker.sync.perform_many, [Job("note", {"text": "x" * 1000})] * 90)
    assert wire.cuts == 1
    assert waiting(store, keys) == 91  # it was sent again, and stored once


@pytest.mark.parametrize("direction", ["requests", "replies"])
async def test_a_half_open_connection_ends_within_the_timeout(make, wire, direction):
    worker = make(wire.url, timeout="500ms")
    await in_thread(worker.sync.perform, Job("note"))
    wire.half_open(requests=direction == "requests", replies=direction == "replies")
    assert (await told(worker.sync.perform, Job("note"))).maybe_stored
    await in_thread(worker.sync.perform, Job("note"))  # over a new one


async def test_many_threads_on_a_wire_that_is_dead_all_end_in_time(make, wire):
    worker = make(wire.url, timeout="500ms")
    await in_thread(worker.sync.perform, Job("note"))
    wire.black_hole = True
    errors = await asyncio.gather(*(told(worker.sync.perform, Job("note")) for _ in range(8)))
    assert all(isinstance(error.maybe_stored, bool) for error in errors)
    wire.black_hole = False
    wire.reset()
    await in_thread(worker.sync.perform, Job("note"))


async def test_a_name_server_that_is_silent_ends_within_the_timeout(make, monkeypatch):
    gate = threading.Event()
    resolve = socket.getaddrinfo

    def silent(*args, **options):
        gate.wait(DEADLINE)
        return resolve(*args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    worker = make(timeout="300ms")
    error = await told(worker.sync.perform, Job("note"))
    assert not error.maybe_stored
    gate.set()
    await in_thread(worker.sync.perform, Job("note"))


async def test_where_no_thread_is_to_be_had_it_connects_by_itself(make, monkeypatch, store, keys):
    """As at the end of the interpreter."""
    worker = make()

    def perform():
        with monkeypatch.context() as patch:

            def refuse(_):
                raise RuntimeError("can't create new thread at interpreter shutdown")

            patch.setattr(threading.Thread, "start", refuse)
            worker.sync.perform(Job("note"))

    await in_thread(perform)
    assert waiting(store, keys) == 1


@pytest.mark.parametrize("answers", [0, 1, 2])
async def test_a_server_that_trickles_ends_within_the_timeout(make, answers):
    """Each byte comes in time, and the whole never does."""

    async def serve(reader, writer, over):
        writer.write(b"+OK\r\n" * answers + b"+")
        while not over.is_set():
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.02)

    async with serving(serve) as port:
        for user in ("", ":secret@"):  # with a login it is the handshake that trickles
            worker = make(f"redis://{user}127.0.0.1:{port}", timeout="300ms")
            assert not (await told(worker.sync.perform, Job("note"))).maybe_stored


async def test_a_stop_ends_a_call_that_waits_for_an_answer(make, wire):
    worker = make(wire.url, timeout="20s", grace="0s")
    await in_thread(worker.sync.perform, Job("note"))
    wire.half_open()
    call = asyncio.create_task(told_by_stop(worker))
    async with asyncio.timeout(DEADLINE):
        while not wire.swallowed:
            await asyncio.sleep(0.005)
    began = time.monotonic()
    await in_thread(worker.sync.stop)
    assert time.monotonic() - began < 2
    assert (await call).maybe_stored


async def test_a_stop_ends_a_call_that_connects(make):
    greeted = asyncio.Event()

    async def serve(reader, writer, over):
        greeted.set()
        await over.wait()

    async with serving(serve) as port:
        worker = make(f"redis://:secret@127.0.0.1:{port}", timeout="20s", grace="0s")
        call = asyncio.create_task(told_by_stop(worker))
        await asyncio.wait_for(greeted.wait(), DEADLINE)
        began = time.monotonic()
        await in_thread(worker.sync.stop)
        assert time.monotonic() - began < 2
        assert not (await call).maybe_stored


async def test_an_interruption_leaves_no_answer_for_the_next_call(make, monkeypatch, store, keys):
    """Ctrl-C strikes anywhere in the main thread: here behind what was sent."""
    worker = make()
    await in_thread(worker.sync.perform, Job("note"))
    wait = SyncLink._receive

    def interrupted(link, deadline):
        wait(link, deadline)
        raise KeyboardInterrupt

    def perform():
        with pytest.raises(KeyboardInterrupt):
            worker.sync.perform(Job("note", queue="other"))

    before = {client["id"] for client in store.client_list()}
    with monkeypatch.context() as patch:
        patch.setattr(SyncLink, "_receive", interrupted)
        await in_thread(perform)
    await in_thread(worker.sync.perform, Job("note"))
    assert {client["id"] for client in store.client_list()} - before, "over the same connection"
    assert waiting(store, keys) == 2


async def told_by_stop(worker) -> BackendUnavailableError:
    with pytest.raises(BackendUnavailableError) as caught:
        await in_thread(worker.sync.perform, Job("note"))
    return caught.value


@pytest.mark.parametrize(
    "answer", [b"*-5\r\n", b":abc\r\n", b"\xff\xff\r\n", b"", b"-MOVED\r\n", b"%2\r\n"]
)
async def test_something_else_answers(make, answer):
    async def serve(reader, writer, over):
        await reader.read(1)
        writer.write(answer)
        await writer.drain()

    async with serving(serve) as port:
        worker = make(f"redis://127.0.0.1:{port}", timeout="1s")
        with pytest.raises(BackendError):
            await in_thread(worker.sync.perform, Job("note"))


# -- forks -------------------------------------------------------------------------


async def test_forks_amid_performs_share_nothing(server, space, store, keys):
    url = f"{server.url}?namespace={space}"
    performed = await asyncio.to_thread(perform_amid_forks, url)
    assert waiting(store, keys) == performed


async def test_a_port_that_nobody_has_is_told_at_once(make):
    worker = make(f"redis://127.0.0.1:{free_port()}", timeout="20s")
    assert not (await told(worker.sync.perform, Job("note"))).maybe_stored
