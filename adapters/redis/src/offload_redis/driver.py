"""The storing side, and the way to a subscription."""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import timedelta

from offload import BackendUnavailableError, Entry, QueueCounts, StoredDeadLetter
from offload.config import NAMESPACE, Config
from offload_redis import dead_letters, scripts
from offload_redis.batches import MAX_JOBS
from offload_redis.durability import check_server
from offload_redis.entries import read_entry
from offload_redis.keeper import Keeper
from offload_redis.keys import QueueKeys, queues_key
from offload_redis.options import LEASE, TIMEOUT, WAIT_REPLICAS
from offload_redis.scripts import Argument, Call
from offload_redis.servers import server_of
from offload_redis.subscription import RedisSubscription
from offload_redis.waker import ANSWER_SECONDS, Waker

MAX_BATCH_BYTES = 1 << 20
"""So many bytes of jobs go in one script, unless one job alone has more."""


class RedisDriver:
    """Jobs in one Redis server."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._server = server_of(config)
        self._link = self._server.commands()
        self._namespace = config[NAMESPACE]
        self._replicas = config[WAIT_REPLICAS]
        # Less than the link waits, so that it is the server that gives up.
        self._wait_ms = config[TIMEOUT] // timedelta(milliseconds=2)
        self._known: dict[str, QueueKeys] = {}

    async def open(self) -> None:
        # Nobody else numbers calls under this name, not even another child of a process that
        # made this worker and forked: see the script.
        self._performer = secrets.token_hex(8)
        self._calls = 0
        self._known.clear()
        self._durable = await check_server(self._link, self._config)

    def claim_notes(self) -> Mapping[str, str]:
        return {} if self._server.dies_with_us else {"durable": self._durable}

    async def close(self) -> Sequence[str]:
        try:
            return await self._all_ids() if self._server.dies_with_us else ()
        finally:
            await self._link.drop()

    def _keys(self, queue: str) -> QueueKeys:
        return QueueKeys(self._namespace, queue, self._performer)

    # -- storing ---------------------------------------------------------------

    async def enqueue(self, entries: Sequence[Entry]) -> None:
        calls: list[Call] = []
        by_queue: dict[str, list[Entry]] = defaultdict(list)
        for entry in entries:
            by_queue[entry.queue].append(entry)
        for queue, of_queue in by_queue.items():
            keys = await self._know(queue)
            calls += (self._enqueue(keys, batch) for batch in _batches(of_queue))
        replies = await self._run_all(calls)
        if any(replies):
            # A server that hears of us for the first time, perhaps because it forgot everything.
            await self._name(list(by_queue))

    async def _run_all(self, calls: Sequence[Call]) -> list[int]:
        # A batch that is overtaken by the next one would be taken for one that was sent twice.
        by_source = len(calls) > 1
        if not self._replicas:
            return await self._link.run(calls, by_source=by_source)
        wait = ("WAIT", self._replicas, self._wait_ms)
        replies = await self._link.run(calls, behind=wait, by_source=by_source)
        have = min(replies[1::2])
        if have < self._replicas:
            raise BackendUnavailableError(
                f"{self._config}: stored, but {have} replicas have it in time, "
                f"and wait_replicas={self._replicas}",
                maybe_stored=True,
            )
        return replies[::2]

    def _enqueue(self, keys: QueueKeys, entries: Sequence[Entry]) -> Call:
        self._calls += 1
        arguments: list[Argument] = [self._calls]
        for entry in entries:
            due: Argument = ""
            if entry.delay_ms:
                due = f"+{entry.delay_ms}"
            elif entry.at_ms is not None:
                due = str(entry.at_ms)
            arguments += (entry.id, due, entry.body)
        where = (keys.ready, keys.later, keys.wake, keys.sent)
        return Call(scripts.ENQUEUE, where, tuple(arguments))

    async def _know(self, queue: str) -> QueueKeys:
        """The keys of a queue, whose name is on the server from the first use on."""
        keys = self._known.get(queue)
        if keys is None:
            keys = self._keys(queue)
            # Asked first: a full server refuses to be told even what it knows.
            if not await self._link.ask("SISMEMBER", queues_key(self._namespace), queue):
                await self._name([queue])
            self._known[queue] = keys
        return keys

    async def _name(self, queues: Sequence[str]) -> None:
        await self._link.ask("SADD", queues_key(self._namespace), *queues)

    # -- consuming -------------------------------------------------------------

    async def subscribe(self, queues: Sequence[str]) -> RedisSubscription:
        server = self._server
        keys = [await self._know(queue) for queue in queues]
        waker = Waker(server.places([each.wake for each in keys], ANSWER_SECONDS), self._link)
        lease = self._config[LEASE]
        keeper = Keeper(server, min(self._config[TIMEOUT], lease / 3).total_seconds())
        ways_in = (server.commands(), server.commands())
        names = queues_key(self._namespace)
        return RedisSubscription(keys, names, lease, ways_in, waker, keeper)

    # -- looking ---------------------------------------------------------------

    async def _all_queues(self) -> list[QueueKeys]:
        names = await self._link.ask("SMEMBERS", queues_key(self._namespace))
        return [self._keys(name.decode()) for name in sorted(names)]

    async def _all_ids(self) -> list[str]:
        ids: list[str] = []
        for keys in await self._all_queues():
            lists = await self._link.execute(
                (
                    ("LRANGE", keys.ready, 0, -1),
                    ("ZRANGE", keys.later, 0, -1),
                    ("HVALS", keys.running),
                )
            )
            ids += (read_entry(entry, "")[0] for entries in lists for entry in entries)
        return ids

    async def counts(self) -> Mapping[str, QueueCounts]:
        queues = await self._all_queues()
        calls = [
            Call(scripts.COUNT, (keys.ready, keys.running, keys.later, keys.dead))
            for keys in queues
        ]
        counts: dict[str, QueueCounts] = {}
        for keys, numbers in zip(queues, await self._link.run(calls) if calls else (), strict=True):
            if any(numbers):
                waiting, running, scheduled, dead = numbers
                counts[keys.queue] = QueueCounts(
                    waiting=waiting, running=running, scheduled=scheduled, dead=dead
                )
        return counts

    async def list_dead(self, limit: int, after: str | None) -> Sequence[StoredDeadLetter]:
        return await dead_letters.page(self._link, await self._all_queues(), limit, after)

    async def show_dead(self, job_id: str) -> StoredDeadLetter | None:
        return await dead_letters.show(self._link, await self._all_queues(), job_id)

    async def requeue_dead(self, ids: Sequence[str]) -> Sequence[str]:
        return await dead_letters.requeue(self._link, await self._all_queues(), ids)

    async def discard_dead(self, ids: Sequence[str]) -> Sequence[str]:
        return await dead_letters.discard(self._link, await self._all_queues(), ids)


def _batches(entries: Sequence[Entry]) -> list[list[Entry]]:
    """Entries by the batch, none too many nor too large."""
    batches: list[list[Entry]] = [[]]
    size = 0
    for entry in entries:
        size += len(entry.body)
        if len(batches[-1]) == MAX_JOBS or (size > MAX_BATCH_BYTES and batches[-1]):
            batches.append([])
            size = len(entry.body)
        batches[-1].append(entry)
    return batches
