"""The jobs that failed for good: listed, put back into their queues, or discarded."""

from __future__ import annotations

import hashlib
from bisect import insort
from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager

from offload import BackendError, BackendUnavailableError, StoredDeadLetter
from offload_amqp.connection import Broker
from offload_amqp.letters import died_in, failure_in
from offload_amqp.looks import Look, Reading
from offload_amqp.messages import id_of
from offload_amqp.names import Names
from offload_amqp.places import UNKNOWN, Cursor, Place, Places
from offload_amqp.publisher import Publisher
from offload_amqp.routing import Router
from offload_amqp.wire import Incoming

BEYOND = 1000
"""Letters without news after which a look ends.

They lie in the order in which they were published, which is nearly that of their
times: a page could only be wrong if one came later by more places than that.
"""

DELIVERIES = "x-delivery-count"
"""The header with which a quorum queue, and no classic one, says how often it has delivered."""


class DeadLetterQueues:
    """The queues of dead letters of some queues."""

    def __init__(
        self, broker: Broker, names: Names, publisher: Publisher, queues: Sequence[str]
    ) -> None:
        self._broker = broker
        self._names = names
        self._router = Router(names)
        self._publisher = publisher
        self._queues = queues

    async def page(self, limit: int, after: str | None) -> list[StoredDeadLetter]:
        """Up to `limit`, the oldest first, behind a cursor.

        Raises:
            UsageError: `after` is no cursor.
            BackendError: the broker is unreachable.
        """
        cursor = Cursor.parse(after)
        if limit < 1:
            return []
        found: list[tuple[Place, Incoming]] = []
        async with self._look() as readings:
            for queue, reading in readings.items():
                found += await _first(reading, queue, limit, cursor)
        found.sort(key=_place)
        letters = []
        for place, message in found[:limit]:
            cursor = cursor.at(place)
            letters.append(_letter(place[2], message, str(cursor)))
        return letters

    async def show(self, job_id: str) -> StoredDeadLetter | None:
        """The first that is found with this id."""
        async with self._look() as readings:
            for queue, reading in readings.items():
                while batch := await reading.next():
                    for message in batch:
                        if id_of(message) == job_id:
                            cursor = Cursor().at(Places().of(message, queue))
                            return _letter(queue, message, str(cursor))
        return None

    async def requeue(self, ids: Collection[str] | None) -> Counter[str]:
        """Put the letters with these ids back into their queues, or all that are there now.

        A crash meanwhile leaves both job and letter. Copies of a letter become one job.

        Returns:
            How many letters were put back, by id.

        Raises:
            BackendUnavailableError: says how many were before it.
        """
        return await self._remove(ids, requeue=True)

    async def discard(self, ids: Collection[str] | None) -> Counter[str]:
        """Forget the letters with these ids, or all that are there now; otherwise as `requeue`."""
        return await self._remove(ids, requeue=False)

    async def _remove(self, ids: Collection[str] | None, *, requeue: bool) -> Counter[str]:
        wanted = None if ids is None else set(ids)
        removed: Counter[str] = Counter()
        copies = _Copies()
        try:
            async with self._look() as readings:
                for queue, reading in readings.items():
                    async for letters in _chosen(reading, wanted, removed):
                        if requeue:
                            await self._publish(queue, copies.without(letters))
                        await reading.remove(letters)
                        removed.update(map(id_of, letters))
        except BackendError as error:
            if not removed:
                raise
            done = f"{removed.total():,} dead letters were {'requeued' if requeue else 'discarded'}"
            raise BackendUnavailableError(f"{error}; {done} before", maybe_stored=True) from error
        return removed

    async def _publish(self, queue: str, letters: Sequence[Incoming]) -> None:
        jobs = [self._router.requeued(id_of(letter), queue, letter.body) for letter in letters]
        await self._publisher.publish(jobs)

    @asynccontextmanager
    async def _look(self) -> AsyncIterator[dict[str, Reading]]:
        """What lies in each of the queues that is there."""
        names = {self._names.dead(queue): queue for queue in self._queues}
        async with Look(self._broker) as look:
            readings = await look.begin(list(names))
            yield {names[name]: reading for name, reading in readings.items()}


class _Copies:
    """Tells letters of one job apart from copies, which a lost connection may leave."""

    def __init__(self) -> None:
        self._known: set[bytes] = set()

    def without(self, letters: Sequence[Incoming]) -> list[Incoming]:
        """Those of these letters that are no copies of earlier ones."""
        return [letter for letter in letters if self._is_new(letter)]

    def _is_new(self, letter: Incoming) -> bool:
        if not letter.id:
            return True  # another program's: it may well publish the same twice, and mean it
        same = hashlib.sha256(b"%b\0%b" % (letter.id.encode(), letter.body)).digest()
        is_new = same not in self._known
        self._known.add(same)
        return is_new


async def _first(
    reading: Reading, queue: str, limit: int, cursor: Cursor
) -> list[tuple[Place, Incoming]]:
    """The first letters of a queue behind a cursor, in their order."""
    places = Places()
    best: list[tuple[Place, Incoming]] = []
    read = later = 0
    in_order = False
    wanted = limit + BEYOND
    while batch := await reading.next(wanted):
        for message in batch:
            place = places.of(message, queue)
            in_order = in_order or _is_in_order(message)
            if cursor.is_before(place):
                later += 1
                if len(best) < limit or place < best[-1][0]:
                    insort(best, (place, message), key=_place)
                    del best[limit:]
        read += len(batch)
        wanted = limit + BEYOND - later
        if wanted <= 0:
            if in_order and best[-1][0][0] != UNKNOWN:
                break
            wanted = max(50, read // 10)  # what was never delivered is to stay so
    return best


async def _chosen(
    reading: Reading, wanted: AbstractSet[str] | None, removed: Mapping[str, int]
) -> AsyncIterator[list[Incoming]]:
    """The letters whose ids are wanted, or all; to the end, or until there is no news of them."""
    idle = 0
    while batch := await reading.next():
        chosen = batch if wanted is None else [each for each in batch if id_of(each) in wanted]
        if chosen:
            yield chosen
            idle = 0
        else:
            idle += sum(map(_is_in_order, batch))
        if wanted is not None and idle >= BEYOND and wanted <= removed.keys():
            break


def _is_in_order(message: Incoming) -> bool:
    """Whether this letter lies where it was published, so that only later ones are behind it.

    What a quorum queue has delivered before lies in front of the others, in any order.
    """
    return not (message.is_redelivered and DELIVERIES in message.headers)


def _place(found: tuple[Place, Incoming]) -> Place:
    return found[0]


def _letter(queue: str, message: Incoming, cursor: str) -> StoredDeadLetter:
    headers = message.headers
    return StoredDeadLetter(
        id_of(message), queue, message.body, died_in(headers) or 0, failure_in(headers), cursor
    )
