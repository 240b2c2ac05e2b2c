"""The storing side, and the way to a subscription."""

from __future__ import annotations

from collections.abc import Sequence

from offload import Entry, StoredDeadLetter
from offload.config import CONCURRENCY, NAMESPACE, QUEUES, Config
from offload_amqp.connection import Broker, Line
from offload_amqp.dead_letters import DeadLetterQueues
from offload_amqp.names import Names
from offload_amqp.options import QUEUE_TYPE
from offload_amqp.publisher import Publisher
from offload_amqp.routing import Router
from offload_amqp.subscription import AmqpSubscription
from offload_amqp.topology import Topology


class AmqpDriver:
    """Jobs in the queues of a RabbitMQ broker."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._queues = config[QUEUES]
        self._broker = Broker(config)
        self._names = Names(config[NAMESPACE])
        self._router = Router(self._names)
        self._topology = Topology(self._names, config[QUEUE_TYPE])

    async def open(self) -> None:
        self._publisher = Publisher(Line(self._broker, confirms=True), self._topology)
        self._dead = DeadLetterQueues(self._broker, self._names, self._publisher, self._queues)
        for queue in self._queues:
            await self._publisher.ensure(queue)

    async def close(self) -> Sequence[str]:
        await self._publisher.close()
        return ()

    async def enqueue(self, entries: Sequence[Entry]) -> None:
        await self._publisher.publish(self._router.new(entries))

    async def subscribe(self, queues: Sequence[str]) -> AmqpSubscription:
        subscription = AmqpSubscription(
            self._broker, self._names, self._topology, queues, self._config[CONCURRENCY]
        )
        await subscription.start()
        return subscription

    async def list_dead(self, limit: int, after: str | None) -> Sequence[StoredDeadLetter]:
        return await self._dead.page(limit, after)

    async def show_dead(self, job_id: str) -> StoredDeadLetter | None:
        return await self._dead.show(job_id)

    async def requeue_dead(self, ids: Sequence[str]) -> Sequence[str]:
        return await self._dead.requeue(ids)

    async def discard_dead(self, ids: Sequence[str]) -> Sequence[str]:
        return await self._dead.discard(ids)
