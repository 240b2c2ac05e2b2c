"""The consuming side."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta

from offload import BackendError, Delivery, Fetched, Settlement, Verdict
from offload_redis import scripts
from offload_redis.batches import batches
from offload_redis.commands import Commands
from offload_redis.entries import encode_reason
from offload_redis.errors import translate, translated
from offload_redis.keeper import Keeper
from offload_redis.keys import QueueKeys
from offload_redis.scripts import Argument, Call
from offload_redis.session import Session, session_of
from offload_redis.sweeper import Sweeper
from offload_redis.waker import Waker

log = logging.getLogger("offload")

LOOK_SECONDS = 1.0
"""How often an idle worker looks for itself: a marker can be lost with the worker that took it."""


class RedisSubscription:
    """Leases the jobs of some queues for one worker."""

    def __init__(
        self,
        queues: Sequence[QueueKeys],
        names: str,
        lease: timedelta,
        ways_in: tuple[Commands, Commands],
        waker: Waker,
        keeper: Keeper,
    ) -> None:
        self.lease = lease
        self._queues = {keys.queue: keys for keys in queues}
        self._sessions = [Session(keys, lease) for keys in queues]
        # Each its own, so that neither waits for the other.
        self._fetching, self._settling = ways_in
        self.where = self._fetching.where
        self._waker = waker
        self._keeper = keeper
        self._sweeper = Sweeper(self._sessions, names, self._fetching, lease)
        self._turn = 0
        self._failing: set[str] = set()

    @translated
    async def fetch(self, limit: int) -> Fetched:
        if self._sweeper.is_due:
            await self._sweeper.sweep()
        self._turn += 1
        first = self._turn % len(self._sessions)
        order = self._sessions[first:] + self._sessions[:first]
        deliveries: list[Delivery] = []
        next_due: int | None = None
        while order and len(deliveries) < limit:
            room = limit - len(deliveries)
            asked, order = order[:room], order[room:]
            share = max(1, room // len(asked))
            try:
                answers = await self._fetch(asked, share)
            except BackendError:
                if not deliveries:
                    raise
                break  # what the others gave must not wait
            for wait, taken in answers:
                deliveries += taken
                if wait >= 0:
                    next_due = wait if next_due is None else min(next_due, wait)
        return Fetched(deliveries, next_due)

    async def _fetch(
        self, sessions: Sequence[Session], share: int
    ) -> list[tuple[int, list[Delivery]]]:
        """Ask each of these queues; of each, the ms to its next due job, and what was leased."""
        replies = await self._fetching.run_each([session.fetch(share) for session in sessions])
        failed = {
            session.keys.queue: reply
            for session, reply in zip(sessions, replies, strict=True)
            if isinstance(reply, Exception)
        }
        if failed or self._failing:
            self._tell_failures(sessions, failed)
        answers = []
        for session, reply in zip(sessions, replies, strict=True):
            if session.keys.queue in failed:
                continue
            holds, next_end, wait, entries, next_number = reply
            if not holds:
                # Frozen for longer than the lease, and taken for dead: begin anew, at once.
                session.end()
                wait = 0
            if next_end >= 0:
                self._sweeper.expect(next_end / 1000)
            answers.append((wait, session.read(entries, next_number) if holds else []))
        return answers

    def _tell_failures(self, asked: Sequence[Session], failed: Mapping[str, Exception]) -> None:
        """Say once what is wrong with a queue; the others go on.

        Raises:
            BackendError: none of them does.
        """
        failing = self._failing - {session.keys.queue for session in asked} | failed.keys()
        if len(failing) == len(self._queues) and failed:
            raise translate(next(iter(failed.values())), self.where, maybe_stored=False)
        for queue in failing - self._failing:
            error = translate(failed[queue], self.where, maybe_stored=False)
            log.error("queue %s: its jobs can't be fetched now: %s", queue, error)
        self._failing = failing

    async def wait(self, timeout: float) -> None:
        await self._waker.wait(min(timeout, LOOK_SECONDS, self._sweeper.seconds_left))

    # -- settling --------------------------------------------------------------

    async def settle(self, settlements: Sequence[Settlement]) -> Collection[Delivery]:
        groups: dict[tuple[str, str], list[Settlement]] = defaultdict(list)
        for settlement in settlements:
            delivery = settlement.delivery
            groups[delivery.queue, session_of(delivery.receipt)].append(settlement)
        calls = [
            self._settle(self._queues[queue], session, batch)
            for (queue, session), group in groups.items()
            for batch in batches(group)
        ]
        foreign = {field.decode() for fields in await self._settling.run(calls) for field in fields}
        if not foreign:
            return ()
        return [each.delivery for each in settlements if each.delivery.receipt in foreign]

    @staticmethod
    def _settle(keys: QueueKeys, session: str, batch: Sequence[Settlement]) -> Call:
        if all(each.verdict is Verdict.ACKNOWLEDGE for each in batch):
            fields = [each.delivery.receipt for each in batch]
            return Call(scripts.ACKNOWLEDGE, (keys.running, keys.leases), (session, *fields))
        arguments: list[Argument] = [session]
        for each in batch:
            arguments += (each.delivery.receipt, *_verdict(each))
        return Call(
            scripts.SETTLE,
            (
                *(keys.running, keys.leases, keys.ready, keys.later),
                *(keys.wake, keys.dead, keys.dead_jobs, keys.dead_reasons),
            ),
            tuple(arguments),
        )

    # -- leases ----------------------------------------------------------------

    def extend(self, deliveries: Collection[Delivery]) -> Collection[Delivery]:
        """All leases of a session are one, so all are extended, or all are lost."""
        asked = [session.name for session in self._sessions]
        held = self._keeper.run([session.extend() for session in self._sessions])
        # The loop's thread may have begun a session meanwhile, in the place of one that was lost.
        lost = {name for name, holds in zip(asked, held, strict=True) if not holds}
        good = ({session.name for session in self._sessions} | set(asked)) - lost
        return [each for each in deliveries if session_of(each.receipt) not in good]

    async def close(self) -> None:
        try:
            await self._waker.close()
            await self._settling.run([session.leave() for session in self._sessions])
        except BackendError as error:
            log.warning("what is leased goes back when the lease ends: %s", error)
        finally:
            await asyncio.gather(self._fetching.drop(), self._settling.drop())


def _verdict(settlement: Settlement) -> tuple[Argument, Argument]:
    """What the script wants to know of it: the verdict, and a value that goes with it."""
    match settlement.verdict:
        case Verdict.ACKNOWLEDGE:
            return "acknowledge", ""
        case Verdict.RELEASE:
            return "release", ""
        case Verdict.RETRY:
            return "retry", settlement.delay_ms
        case Verdict.DEAD_LETTER:
            return "dead", encode_reason(settlement.failure)
