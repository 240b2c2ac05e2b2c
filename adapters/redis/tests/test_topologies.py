"""Sentinels and clusters: the same program, on more than one server."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import redis
from redis.crc import key_slot
from support import DEADLINE

from offload import BackendUnavailableError, Job
from offload_conformance.authors import free_port
from offload_redis.conformance import PrivateServer
from offload_redis.keys import QueueKeys

QUEUES = ["default", "a", "b", "c", "d"]
"""Whose slots lie on all three nodes."""
SLOTS = 16384
PROGRAM = "redis-server"


async def until(holds) -> None:
    async with asyncio.timeout(DEADLINE):
        while not holds():
            await asyncio.sleep(0.02)


# -- a cluster -------------------------------------------------------------------


@pytest.fixture
async def nodes(start_server, clients) -> list[redis.Redis]:
    """Three nodes, each with a third of the slots."""
    servers = [
        await start_server(
            *("--cluster-enabled", "yes", "--cluster-node-timeout", "2000"),
            *("--cluster-port", str(free_port())),
        )
        for _ in range(3)
    ]
    nodes = [clients(server.port) for server in servers]
    for number, node in enumerate(nodes):
        first, end = SLOTS * number // 3, SLOTS * (number + 1) // 3
        node.execute_command("CLUSTER", "ADDSLOTSRANGE", first, end - 1)
        bus = nodes[0].config_get("cluster-port")["cluster-port"]
        node.execute_command("CLUSTER", "MEET", "127.0.0.1", servers[0].port, bus)
    await until(lambda: all(info(node)["cluster_state"] == "ok" for node in nodes))
    await until(lambda: all(info(node)["cluster_known_nodes"] == "3" for node in nodes))
    return nodes


def info(node: redis.Redis) -> dict[str, str]:
    return node.execute_command("CLUSTER INFO")


def port_of(node: redis.Redis) -> int:
    port: int = node.connection_pool.connection_kwargs["port"]
    return port


def owner_of(nodes: list[redis.Redis], slot: int) -> redis.Redis:
    return nodes[slot * 3 // SLOTS]


async def test_a_program_runs_on_a_cluster(nodes, make, recorder, space):
    slots = {queue: key_slot(QueueKeys(space, queue, "").ready.encode()) for queue in QUEUES}
    assert {port_of(owner_of(nodes, slot)) for slot in slots.values()} == {*map(port_of, nodes)}
    worker = make(f"redis+cluster://127.0.0.1:{port_of(nodes[2])}", queues=",".join(QUEUES))
    worker.register("note", recorder.note)
    worker.register("fail", recorder.failing(9), max_attempts=1)
    await worker.perform_many([Job("note", {}, queue) for queue in QUEUES * 50])
    for queue in QUEUES:
        await worker.perform(Job("fail", {}, queue))
        await worker.perform_in(Job("note", {}, queue), 0.2)
    await worker.start()
    await recorder.until_started(len(QUEUES) * 52)
    async with asyncio.timeout(DEADLINE):
        while len(letters := await worker.dead_letters.list()) < len(QUEUES):
            await asyncio.sleep(0.02)
    assert sorted(letter.queue for letter in letters) == sorted(QUEUES)
    requeued = await worker.dead_letters.requeue([letter.id for letter in letters[:2]])
    discarded = await worker.dead_letters.discard([letter.id for letter in letters[2:]])
    assert len(requeued) == 2
    assert len(discarded) == 3
    await recorder.until_started(len(QUEUES) * 52 + 2)


async def test_threads_perform_on_a_cluster(nodes, make):
    worker = make(f"redis+cluster://127.0.0.1:{port_of(nodes[0])}")
    await asyncio.to_thread(worker.sync.perform_many, [Job("note", {}, queue) for queue in QUEUES])
    counts = await asyncio.to_thread(worker.sync.counts)
    assert sum(each.waiting for each in counts.values()) == len(QUEUES)
    await asyncio.to_thread(worker.sync.stop)


async def test_a_slot_that_moves_takes_its_jobs_along(nodes, make, recorder, space):
    slot = key_slot(QueueKeys(space, "default", "").ready.encode())
    source = owner_of(nodes, slot)
    target = next(node for node in nodes if node is not source)
    worker = make(f"redis+cluster://127.0.0.1:{port_of(source)},127.0.0.1:{port_of(target)}")
    worker.register("note", recorder.note)
    ids = set()
    moved = asyncio.Event()

    async def perform() -> None:
        while not moved.is_set():
            ids.add(await worker.perform(Job("note")))
            ids.add(await worker.perform_in(Job("note"), 0.3))
            ids.update(await worker.perform_many([Job("note")] * 250))

    await worker.start()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(perform())
        await recorder.until_started(100)
        await asyncio.to_thread(move_slot, nodes, slot, source, target)
        moved.set()
    async with asyncio.timeout(DEADLINE):
        while not ids <= {job.id for job in recorder.started}:
            await asyncio.sleep(0.05)
    assert len(recorder.started) == len(ids)


def move_slot(
    nodes: list[redis.Redis], slot: int, source: redis.Redis, target: redis.Redis
) -> None:
    """As an operator's tool does it: key by key, and then tell everybody."""
    ids = {node: node.execute_command("CLUSTER MYID").decode() for node in (source, target)}
    target.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source])
    source.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target])
    while keys := source.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 10):
        source.migrate("127.0.0.1", port_of(target), keys, 0, 5000)
    for node in (target, source, *nodes):
        node.execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[target])


async def test_a_node_that_is_down_stops_only_its_own_queues(
    start_server, nodes, make, recorder, space
):
    slot = key_slot(QueueKeys(space, "default", "").ready.encode())
    down = owner_of(nodes, slot)
    others = [node for node in nodes if node is not down]
    for node in others:
        node.config_set("cluster-require-full-coverage", "no")
    worker = make(f"redis+cluster://127.0.0.1:{port_of(others[0])}", timeout="1s")
    other = next(
        queue
        for queue in map("q{}".format, range(100))
        if owner_of(nodes, key_slot(QueueKeys(space, queue, "").ready.encode())) is not down
    )
    await worker.perform(Job("note", {}, "default"))
    await worker.perform(Job("note", {}, other))
    down.shutdown(nosave=True)
    with pytest.raises(BackendUnavailableError):
        await worker.perform(Job("note", {}, "default"))
    assert await worker.perform(Job("note", {}, other))


# -- sentinels -------------------------------------------------------------------


class Sentinel(PrivateServer):
    """A sentinel that watches one master, and finds it dead after half a second."""

    def __init__(self, folder: Path, master_port: int) -> None:
        self.port = free_port()
        super().__init__(PROGRAM, self.port, folder)
        config = folder / "sentinel.conf"
        config.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {folder}\n"
            f"sentinel monitor main 127.0.0.1 {master_port} 1\n"
            "sentinel down-after-milliseconds main 500\n"
            "sentinel failover-timeout main 2000\n"
        )
        self._command = [PROGRAM, str(config), "--sentinel"]


@pytest.fixture
async def watched(start_server, tmp_path, clients):
    """A master with a replica that has caught up, and the URL of the service behind a sentinel."""
    master = await start_server("--repl-diskless-sync-delay", "0")
    replica = await start_server("--replicaof", f"127.0.0.1 {master.port}")
    follower = clients(replica.port)
    await until(lambda: follower.info("replication")["master_link_status"] == "up")
    sentinel = Sentinel(tmp_path, master.port)
    try:
        await sentinel.start()
        watcher = clients(sentinel.port)
        await until(lambda: watcher.sentinel_slaves("main"))
        yield master, f"redis+sentinel://127.0.0.1:1,127.0.0.1:{sentinel.port}/main"
    finally:
        sentinel.end()


async def test_what_a_replica_has_survives_a_failover(watched, make, recorder):
    master, url = watched
    performer = make(url, wait_replicas=1)
    ids = set(await performer.perform_many([Job("note")] * 200))
    ids.add(await performer.perform_in(Job("note"), 0.1))
    master.end()
    worker = make(url, timeout="1s")
    worker.register("note", recorder.note)
    await until_works(worker.start)
    await recorder.until(lambda: ids <= {job.id for job in recorder.started})


async def test_a_worker_follows_to_the_new_master(watched, make, recorder):
    master, url = watched
    worker = make(url, timeout="1s")
    worker.register("note", recorder.note)
    await worker.start()
    await worker.perform(Job("note"))
    master.end()
    with pytest.raises(BackendUnavailableError):
        await worker.perform(Job("note"))
    job_id = await until_works(lambda: worker.perform(Job("note")))
    await recorder.until(lambda: any(job.id == job_id for job in recorder.started))


async def test_threads_follow_to_the_new_master(watched, make):
    """Over a plain connection: there is no loop in these threads, nor is one made."""
    master, url = watched
    worker = make(url, timeout="1s")
    await asyncio.to_thread(worker.sync.perform, Job("note"))
    assert worker.loop is None
    master.end()
    with pytest.raises(BackendUnavailableError):
        await asyncio.to_thread(worker.sync.perform, Job("note"))
    assert await until_works(lambda: asyncio.to_thread(worker.sync.perform, Job("note")))
    assert worker.loop is None


async def test_without_a_replica_wait_replicas_says_so(watched, make):
    _, url = watched
    worker = make(url, wait_replicas=2, timeout="1s")
    with pytest.raises(BackendUnavailableError, match=r"stored, but [01] replicas") as raised:
        await worker.perform(Job("note"))
    assert raised.value.maybe_stored


async def test_a_service_that_nobody_knows_is_named(watched, make):
    _, url = watched
    with pytest.raises(BackendUnavailableError, match="no service 'other'"):
        await make(url.replace("/main", "/other")).start()


async def until_works(call):
    """Call this until the new master answers, and return what it returned."""
    async with asyncio.timeout(DEADLINE):
        while True:
            try:
                return await call()
            except BackendUnavailableError:
                await asyncio.sleep(0.05)
