"""The jobs that failed for good: looked at by taking them, and giving them back untouched."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from offload import Failure, StoredDeadLetter
from offload_amqp.connection import Broker, Line
from offload_amqp.counts import ready_in
from offload_amqp.errors import translated
from offload_amqp.messages import DIED, ERROR, RUNS, TRACEBACK, id_of, number_in
from offload_amqp.names import Names
from offload_amqp.publisher import Publisher
from offload_amqp.routing import Router
from offload_amqp.wire import Channel, Incoming


class DeadLetterQueues:
    """The queues of dead letters of some queues.

    AMQP has no way to look into a queue: messages are taken one by one, on a
    channel that is thrown away afterwards, which puts them back in their order.
    """

    def __init__(
        self, broker: Broker, names: Names, publisher: Publisher, queues: Sequence[str]
    ) -> None:
        self._broker = broker
        self._names = names
        self._router = Router(names)
        self._publisher = publisher
        self._queues = queues

    async def page(self, limit: int, after: str | None) -> list[StoredDeadLetter]:
        """Up to `limit`, the oldest first, behind the one whose id is `after`."""
        letters: list[StoredDeadLetter] = []
        async with self._look() as (channel, queues):
            for queue in queues:
                letters += [_letter(queue, each) async for each in self._messages(channel, queue)]
        letters.sort(key=lambda letter: letter.died_ms)
        ids = [letter.id for letter in letters]
        begin = ids.index(after) + 1 if after in ids else 0
        return letters[begin : begin + limit]

    async def show(self, job_id: str) -> StoredDeadLetter | None:
        """The one with this id."""
        async with self._look() as (channel, queues):
            for queue in queues:
                async for message in self._messages(channel, queue):
                    letter = _letter(queue, message)
                    if letter.id == job_id:
                        return letter
        return None

    async def requeue(self, ids: Sequence[str]) -> list[str]:
        """Put these back into their queues. A crash in between leaves both job and letter."""

        async def publish(letter: StoredDeadLetter) -> None:
            message = self._router.requeued(letter.id, letter.queue, letter.body)
            await self._publisher.publish([message])

        return await self._take(ids, publish)

    async def discard(self, ids: Sequence[str]) -> list[str]:
        """Forget these."""

        async def forget(letter: StoredDeadLetter) -> None:
            """There is nothing to do before it is acknowledged."""

        return await self._take(ids, forget)

    async def _take(
        self, ids: Sequence[str], before: Callable[[StoredDeadLetter], object]
    ) -> list[str]:
        wanted, taken = set(ids), []
        async with self._look() as (channel, queues):
            for queue in queues:
                async for message in self._messages(channel, queue):
                    letter = _letter(queue, message)
                    if letter.id not in wanted:
                        continue
                    wanted.discard(letter.id)
                    await before(letter)  # type: ignore[misc]
                    channel.acknowledge([message.tag])
                    taken.append(letter.id)
                    if not wanted:
                        return taken
        return taken

    @asynccontextmanager
    async def _look(self) -> AsyncIterator[tuple[Channel, list[str]]]:
        """A channel on which messages are taken, and given back at the end; the queues there."""
        line = Line(self._broker, confirms=False)
        try:
            dead = {queue: await ready_in(line, self._names.dead(queue)) for queue in self._queues}
            yield await line.channel(), [queue for queue in dead if dead[queue] is not None]
        finally:
            await line.close()

    async def _messages(self, channel: Channel, queue: str) -> AsyncIterator[Incoming]:
        while True:
            async with translated(self._broker.where, self._broker.timeout, maybe_stored=True):
                message = await channel.get(self._names.dead(queue))
            if message is None:
                return
            yield message


def _letter(queue: str, message: Incoming) -> StoredDeadLetter:
    headers = message.headers
    if ERROR in headers:
        failure = Failure(
            str(headers[ERROR]), str(headers.get(TRACEBACK, "")), number_in(headers, RUNS)
        )
    else:
        failure = Failure("the broker gave it up: it was delivered too often, and never settled")
    return StoredDeadLetter(id_of(message), queue, message.body, number_in(headers, DIED), failure)
