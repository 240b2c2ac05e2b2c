"""The storing side, and the way to a subscription."""

from __future__ import annotations

import os
import secrets
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta

import msgspec
from redis.exceptions import NoScriptError

from offload import (
    BackendError,
    BackendUnavailableError,
    Entry,
    QueueCounts,
    StoredDeadLetter,
)
from offload.config import NAMESPACE, QUEUES, Config
from offload_redis import dead_letters, scripts
from offload_redis.batches import MAX_JOBS
from offload_redis.durability import check_server
from offload_redis.entries import read_entry
from offload_redis.errors import is_wrong_type, translate, translated
from offload_redis.keeper import Keeper
from offload_redis.keys import QueueKeys, queues_key, read_names
from offload_redis.options import LEASE, TIMEOUT, WAIT_REPLICAS
from offload_redis.permissions import check_performing, check_working
from offload_redis.scripts import Argument, Call
from offload_redis.servers import ASYNC, Client, server_of
from offload_redis.subscription import RedisSubscription
from offload_redis.waker import ANSWER_SECONDS, Waker

MAX_BATCH_BYTES = 1 << 20
"""So many bytes of jobs go in one script, unless one job alone has more."""
TRIES = 10
"""How often batches are sent whose order was lost on the way, before that is an error."""


class RedisDriver:
    """Jobs in one Redis server."""

    def __init__(self, config: Config, client: Client = ASYNC) -> None:
        self._config = config
        self.where = str(config)
        self._server = server_of(config, client)
        self._link = self._server.commands()
        self._namespace = config[NAMESPACE]
        self._replicas = config[WAIT_REPLICAS]
        # Less than the link waits, so that it is the server that gives up.
        self._wait_ms = config[TIMEOUT] // timedelta(milliseconds=2)
        self._known: dict[str, QueueKeys] = {}

    @translated
    async def open(self) -> None:
        self._begin()
        try:
            self._durable = await check_server(self._link, self._config)
            names = queues_key(self._namespace)
            queues = [self._keys(queue) for queue in self._config[QUEUES]]
            await check_performing(self._link, names, queues, replicas=self._replicas)
        except BaseException as error:
            await self._link.drop()  # nobody closes what didn't open
            if isinstance(error, BackendError):
                error.maybe_stored = False  # whatever was sent, it was no job
            raise

    def _begin(self) -> None:
        # Nobody else numbers calls under this name, not even another child of a process that
        # made this worker, or opened it, and forked: see the script.
        self._process = os.getpid()
        self._performer = secrets.token_hex(8)
        self._numbers = Counter[str]()
        self._known.clear()

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

    @translated
    async def enqueue(self, entries: Sequence[Entry]) -> None:
        if self._process != os.getpid():
            self._begin()
        if len(entries) == 1 and await self._store_one(entries[0]):
            return
        batches = []
        for queue, batch in _batches(entries):
            keys = self._known.get(queue) or await self._know(queue)
            batches.append(self._number(keys, batch))
        for _ in range(TRIES):
            replies = await self._send(batches)
            if not any(replies):
                return
            if -2 in replies:
                self._begin()
                batches = [
                    self._number(self._keys(batch.keys.queue), batch.entries)
                    if reply < 0
                    else batch
                    for batch, reply in zip(batches, replies, strict=True)
                ]
            if 1 in replies:
                # A server that hears of us for the first time, or that forgot everything.
                await self._name({batch.keys.queue for batch in batches})
            batches = [each for each, reply in zip(batches, replies, strict=True) if reply < 0]
            if not batches:
                return
        raise BackendUnavailableError(f"{self._config} is in disorder", maybe_stored=True)

    async def _store_one(self, entry: Entry) -> bool:
        """`enqueue` as it mostly is, at half of the cost; False if that way is barred."""
        keys = self._known.get(entry.queue)
        if keys is None or self._replicas:
            return False
        number = self._numbers[entry.queue] = self._numbers[entry.queue] + 1
        command = (
            *("EVALSHA", scripts.ENQUEUE.digest, 4, keys.ready, keys.later, keys.wake, keys.sent),
            *(number, number, number, entry.id, _due_of(entry), entry.body),
        )
        (reply,) = await self._link.execute((command,))
        if isinstance(reply, Exception):
            if isinstance(reply, NoScriptError) or is_wrong_type(reply):
                return False
            raise translate(reply, self.where, maybe_stored=False) from reply
        if reply == 1:
            await self._name([entry.queue])
        return bool(reply >= 0)

    def _number(self, keys: QueueKeys, entries: Sequence[Entry]) -> _Batch:
        self._numbers[keys.queue] += 1
        return _Batch(keys, self._numbers[keys.queue], entries)

    async def _send(self, batches: Sequence[_Batch]) -> list[int]:
        """Send these together; of each, what the script answers."""
        first: dict[str, int] = {}
        calls = [
            batch.call(
                first.setdefault(batch.keys.queue, batch.number), self._numbers[batch.keys.queue]
            )
            for batch in batches
        ]
        if not self._replicas:
            return await self._link.run(calls)
        wait = ("WAIT", self._replicas, self._wait_ms)
        replies = await self._link.run(calls, behind=wait)
        have = min(replies[1::2])
        if have < self._replicas:
            raise BackendUnavailableError(
                f"{self._config}: stored, but {have} replicas have it in time, "
                f"and wait_replicas={self._replicas}",
                maybe_stored=True,
            )
        return replies[::2]

    async def _know(self, queue: str) -> QueueKeys:
        """The keys of a queue, whose name is on the server from the first use on."""
        keys = self._keys(queue)
        # Asked first: a full server refuses to be told even what it knows.
        if not await self._link.ask("SISMEMBER", queues_key(self._namespace), queue):
            await self._name([queue])
        self._known[queue] = keys
        return keys

    async def _name(self, queues: Iterable[str]) -> None:
        await self._link.ask("SADD", queues_key(self._namespace), *queues)

    # -- consuming -------------------------------------------------------------

    @translated
    async def subscribe(self, queues: Sequence[str]) -> RedisSubscription:
        server = self._server
        keys = [await self._know(queue) for queue in queues]
        await check_working(self._link, keys)
        waker = Waker(server.places([each.wake for each in keys], ANSWER_SECONDS), self._link)
        lease = self._config[LEASE]
        keeper = Keeper(server, min(self._config[TIMEOUT], lease / 3).total_seconds())
        ways_in = (server.commands(), server.commands())
        names = queues_key(self._namespace)
        return RedisSubscription(keys, names, lease, ways_in, waker, keeper)

    # -- looking ---------------------------------------------------------------

    async def _all_queues(self) -> list[QueueKeys]:
        names = await self._link.ask("SMEMBERS", queues_key(self._namespace))
        # Should the set be gone, the queues of this worker are known at least.
        return [self._keys(name) for name in sorted({*read_names(names), *self._config[QUEUES]})]

    async def _all_ids(self) -> list[str]:
        ids: list[str] = []
        for keys in await self._all_queues():
            looks = (
                ("LRANGE", keys.ready, 0, -1),
                ("ZRANGE", keys.later, 0, -1),
                ("HVALS", keys.running),
            )
            for found in await self._link.execute(looks):
                entries = () if isinstance(found, Exception) else found
                ids += (read_entry(entry, "")[0] for entry in entries)
        return ids

    @translated
    async def counts(self) -> Mapping[str, QueueCounts]:
        queues = await self._all_queues()
        calls = [
            Call(scripts.COUNT, (keys.ready, keys.running, keys.later, keys.dead))
            for keys in queues
        ]
        counts: dict[str, QueueCounts] = {}
        for keys, numbers in zip(queues, await self._link.run(calls), strict=True):
            if any(numbers):
                waiting, running, scheduled, dead = numbers
                counts[keys.queue] = QueueCounts(
                    waiting=waiting, running=running, scheduled=scheduled, dead=dead
                )
        return counts

    @translated
    async def list_dead(self, limit: int, after: str | None) -> Sequence[StoredDeadLetter]:
        return await dead_letters.page(self._link, await self._all_queues(), limit, after)

    @translated
    async def show_dead(self, job_id: str) -> StoredDeadLetter | None:
        return await dead_letters.show(self._link, await self._all_queues(), job_id)

    @translated
    async def requeue_dead(self, ids: Sequence[str]) -> Sequence[str]:
        return await dead_letters.requeue(self._link, await self._all_queues(), ids)

    @translated
    async def discard_dead(self, ids: Sequence[str]) -> Sequence[str]:
        return await dead_letters.discard(self._link, await self._all_queues(), ids)


class _Batch(msgspec.Struct, frozen=True, gc=False):
    """Jobs of one queue that travel together, under a number that this queue sees once."""

    keys: QueueKeys
    number: int
    entries: Sequence[Entry]

    def call(self, first: int, last: int) -> Call:
        """The call that stores them, in a row of calls that begins and ends with these numbers."""
        keys = self.keys
        arguments: list[Argument] = [self.number, first, last]
        for entry in self.entries:
            arguments += (entry.id, _due_of(entry), entry.body)
        where = (keys.ready, keys.later, keys.wake, keys.sent)
        return Call(scripts.ENQUEUE, where, tuple(arguments))


def _due_of(entry: Entry) -> str:
    """When it is due, as the script wants to be told."""
    if entry.delay_ms:
        return f"+{entry.delay_ms}"
    return "" if entry.at_ms is None else str(entry.at_ms)


def _batches(entries: Sequence[Entry]) -> list[tuple[str, Sequence[Entry]]]:
    """Entries by queue and batch, none too many nor too large."""
    batches: list[tuple[str, Sequence[Entry]]] = []
    open_ones: dict[str, list[Entry]] = {}
    sizes = Counter[str]()
    for entry in entries:
        queue, size = entry.queue, len(entry.body)
        batch = open_ones.get(queue)
        if batch is None or len(batch) == MAX_JOBS or sizes[queue] + size > MAX_BATCH_BYTES:
            batch = open_ones[queue] = []
            batches.append((queue, batch))
            sizes[queue] = 0
        batch.append(entry)
        sizes[queue] += size
    return batches
