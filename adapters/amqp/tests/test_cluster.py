"""DUR and CONN: a cluster of three nodes, which are killed one after the other."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable

import pytest

import offload
from offload import BackendUnavailableError, Job
from offload_amqp import ADAPTER

pytestmark = pytest.mark.xdist_group("cluster")  # one process, so that it starts once

assert ADAPTER.limits.reconnect is not None
RECONNECT_SECONDS = ADAPTER.limits.reconnect.total_seconds()
EARLY_SECONDS = 0.03
"""By so much a job may be early; see the README."""
DELAYS = (0, 0, 0, 0.5, 2.5, 0, 0, 0, 4.5, 6.5)
"""Of the jobs under load: none, one that a worker holds, and ways down one or two levels."""
MANY = 300


class Load:
    """Performs without end, and remembers what was accepted."""

    def __init__(self, performer: offload.Worker) -> None:
        self._performer = performer
        self.began: dict[str, float] = {}
        """When the perform of each job that was accepted began."""
        self.due: dict[str, float] = {}
        self.failed: list[float] = []
        self._changed = asyncio.Event()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        performing = [asyncio.create_task(self._perform()) for _ in range(4)]
        try:
            yield
        finally:
            for each in performing:
                each.cancel()
            await asyncio.wait(performing)

    async def _perform(self) -> None:
        while True:
            for delay in DELAYS:
                began = time.time()
                try:
                    job_id = await self._performer.perform_in(Job("note"), delay)
                except BackendUnavailableError:
                    self.failed.append(time.time())
                    await asyncio.sleep(0.01)
                else:
                    self.began[job_id], self.due[job_id] = began, began + delay
                self._changed.set()

    def since(self, moment: float) -> set[str]:
        """The jobs whose performs began after this moment."""
        return {job_id for job_id, began in self.began.items() if began > moment}

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(RECONNECT_SECONDS):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


async def use_every_queue(worker: offload.Worker) -> None:
    """Perform what nobody runs, so that all queues of these tests are there."""
    worker.register("never", lambda _: None)
    for delay in (3600, 0.5, 0):
        await worker.perform_in(Job("never"), delay)


async def perform_until(worker: offload.Worker, delay: float = 0) -> str:
    """Perform as soon as the cluster accepts it."""
    async with asyncio.timeout(RECONNECT_SECONDS):
        while True:
            with contextlib.suppress(BackendUnavailableError):
                return await worker.perform_in(Job("note"), delay)
            await asyncio.sleep(0.02)


async def test_every_queue_has_three_members(cluster, make_at, space):
    await use_every_queue(make_at(cluster.url(cluster.nodes[0])))
    queues = await cluster.until_whole(space)
    ladder = {f"{space}.delay.{level}" for level in range(12)}
    assert queues.keys() == ladder | {f"{space}.{part}.default" for part in ("q", "soon", "dead")}
    everywhere = sorted(node.name for node in cluster.nodes)
    assert all(sorted(queue["members"]) == everywhere for queue in queues.values())


@pytest.mark.parametrize("connected", ["to it", "elsewhere"])
async def test_dur_3_the_node_that_leads_the_queues_is_killed(
    cluster, make_at, recorder, space, connected
):
    """Under load. Nothing that was accepted is lost, or early, and the node comes back."""
    # Who declares a queue is connected to the node that leads it.
    await use_every_queue(make_at(cluster.url(cluster.nodes[1])))
    queues = await cluster.until_whole(space)
    leading = {queue["leader"] for queue in queues.values()}
    (leader,) = [node for node in cluster.nodes if node.name in leading]
    first = leader if connected == "to it" else cluster.nodes[0]
    worker, performer = make_at(cluster.url(first)), make_at(cluster.url(first))
    worker.register("never", recorder.note)
    worker.register("note", recorder.note)
    await worker.start()
    load = Load(performer)
    async with load.running():
        await load.until(lambda: len(load.due) > MANY)
        await asyncio.to_thread(leader.strike)
        killed = time.time()
        on_the_ladder = [due for due in load.due.values() if due > killed + 2]
        assert len(on_the_ladder) > MANY / 10
        await load.until(lambda: len(load.since(killed)) > MANY)
        await recorder.until(lambda: recorder.started_at.keys() & load.since(killed))
        await leader.start()
        await cluster.until_whole(space)
        back = time.time()
        await load.until(lambda: len(load.since(back)) > MANY)
    await recorder.until(lambda: recorder.started_at.keys() >= load.due.keys())
    ran = {job_id: recorder.started_at[job_id] for job_id in load.due}
    assert min(at - load.due[job_id] for job_id, at in ran.items()) >= -EARLY_SECONDS
    works_again = min(ran[job_id] for job_id in load.since(killed)) - killed
    assert works_again < RECONNECT_SECONDS
    accepted_again = min(load.began[job_id] for job_id in load.since(killed)) - killed
    latest = max(at - load.due[job_id] for job_id, at in ran.items())
    print(
        f"connected {connected}: {len(load.failed)} of {len(load.failed) + len(load.due)} performs "
        f"failed, the last {max(load.failed, default=killed) - killed:.2f} s after the kill; "
        f"the first that went well began after {accepted_again:.2f} s, "
        f"the first job ran after {works_again:.2f} s; "
        f"{len(recorder.started) - len(recorder.started_at)} ran twice, "
        f"the latest {latest:.2f} s after it was due"
    )


async def test_conn_2_each_node_dies_in_turn(cluster, make_at, recorder, space):
    """Whoever is connected to it moves on to another one."""
    url = cluster.url(cluster.nodes[0])
    worker, performer = make_at(url), make_at(url)
    worker.register("note", recorder.note)
    await worker.start()
    await perform_until(performer)
    for node in cluster.nodes:
        await cluster.until_whole(space)
        await asyncio.to_thread(node.strike)
        began = time.monotonic()
        accepted = await perform_until(performer)
        print(f"accepted {time.monotonic() - began:.2f} s after a kill")
        await recorder.until(lambda accepted=accepted: accepted in recorder.started_at)
        print(f"runs {time.monotonic() - began:.2f} s after it")
        assert time.monotonic() - began < RECONNECT_SECONDS
        await node.start()


async def test_queues_that_are_first_used_while_a_node_is_down(cluster, make_at, recorder, space):
    """It joins them when it is back, and stands in for another one."""
    down, other, last = cluster.nodes
    await asyncio.to_thread(down.strike)
    worker, performer = make_at(cluster.url(other)), make_at(cluster.url(last))
    worker.register("note", recorder.note)
    ids = {await perform_until(performer, delay) for delay in (0, 3.5)}
    await down.start()
    await cluster.until_whole(space)
    await asyncio.to_thread(last.strike)
    await worker.start()
    await recorder.until(lambda: recorder.started_at.keys() >= ids)


async def test_conn_1_without_a_majority_nothing_is_accepted(cluster, make_at, recorder, space):
    """Each perform fails in time, and all goes on when the nodes are back."""
    alone, *others = cluster.nodes
    worker, performer = make_at(cluster.url(alone)), make_at(cluster.url(alone), timeout="1s")
    worker.register("note", recorder.note)
    await worker.start()
    await perform_until(performer)
    await cluster.until_whole(space)
    for node in others:
        await asyncio.to_thread(node.strike)
    for _ in range(3):
        began = time.monotonic()
        with pytest.raises(BackendUnavailableError, match="in time"):
            await performer.perform(Job("note"))
        assert time.monotonic() - began < 2.0
    await cluster.start()
    accepted = await perform_until(performer)
    await recorder.until(lambda: accepted in recorder.started_at)
