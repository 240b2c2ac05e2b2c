"""The storing side, and the way to a subscription."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from offload import Entry, QueueCounts, StoredDeadLetter
from offload.config import CONCURRENCY, NAMESPACE, QUEUES, Config
from offload_amqp.connection import Broker, Line
from offload_amqp.counts import count
from offload_amqp.dead_letters import DeadLetterQueues
from offload_amqp.names import Names, check_names
from offload_amqp.options import CONSUMER_TIMEOUT, DECLARE, QUEUE_TYPE
from offload_amqp.publisher import Publisher
from offload_amqp.routing import Router
from offload_amqp.subscription import AmqpSubscription
from offload_amqp.topology import Topology


class AmqpDriver:
    """Jobs in the queues of a RabbitMQ broker."""

    def __init__(self, config: Config) -> None:
        check_names(config)
        self._config = config
        self._queues = config[QUEUES]
        self.longest_run = config[CONSUMER_TIMEOUT]
        self._broker = Broker(config)
        self._names = Names(config[NAMESPACE])
        self._router = Router(self._names)
        declares = config[DECLARE] == "true"
        self._topology = Topology(self._names, config[QUEUE_TYPE], declares=declares)
        self._known = set(self._queues)
        """The queues of which we know: AMQP can't list them."""

    async def open(self) -> None:
        line = Line(self._broker, confirms=True)
        await line.channel()
        self._publisher = Publisher(line, self._topology)
        self._dead = DeadLetterQueues(self._broker, self._names, self._publisher, self._queues)

    def claim_notes(self) -> Mapping[str, str]:
        if self._config[QUEUE_TYPE] == "quorum":
            return {}
        return {
            "durable": "classic queues: a broker that is killed loses some of the jobs that are "
            "due later than in two seconds, and counts no more than one run that was cut short"
        }

    async def close(self) -> Sequence[str]:
        await self._publisher.close()
        return ()

    async def enqueue(self, entries: Sequence[Entry]) -> None:
        await self._publisher.publish(self._router.new(entries))
        self._known.update(entry.queue for entry in entries)

    async def subscribe(self, queues: Sequence[str]) -> AmqpSubscription:
        subscription = AmqpSubscription(
            self._broker, self._names, self._topology, queues, self._config[CONCURRENCY]
        )
        await subscription.start()
        return subscription

    async def counts(self) -> Mapping[str, QueueCounts]:
        line = Line(self._broker, confirms=False)
        try:
            return await count(line, self._names, self._known)
        finally:
            await line.close()

    async def list_dead(self, limit: int, after: str | None) -> Sequence[StoredDeadLetter]:
        return await self._dead.page(limit, after)

    async def show_dead(self, job_id: str) -> StoredDeadLetter | None:
        return await self._dead.show(job_id)

    async def requeue_dead(self, ids: Sequence[str]) -> Sequence[str]:
        return list(await self._dead.requeue(ids))

    async def discard_dead(self, ids: Sequence[str]) -> Sequence[str]:
        return list(await self._dead.discard(ids))

    async def requeue_all_dead(self) -> int:
        return (await self._dead.requeue(None)).total()

    async def discard_all_dead(self) -> int:
        return (await self._dead.discard(None)).total()
