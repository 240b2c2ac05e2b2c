"""Which event loop has a worker, and how calls from any other reach the backend.

A connection belongs to one loop. What several processes share has a driver for
each loop, so that others perform by one of their own (`Elsewhere`). What lives
in our memory has one driver, which one loop uses after the other; once its
worker has been started, calls from other loops are carried to that one.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol, TypeVar

from offload.claims import Claims
from offload.driver import ClaimNotes, Driver, Entry, Subscription
from offload.engine.connection import Connection, tell_of_close
from offload.engine.elsewhere import Elsewhere
from offload.engine.states import Life
from offload.engine.stop_budget import StopBudget
from offload.errors import UsageError
from offload.loop_thread import LOOK_SECONDS, LOOKS, run_elsewhere

T = TypeVar("T")

TAKING_TURNS = 500
"""How often a start tries to have a worker that others only perform with."""
TURN_SECONDS = 0.001
"""How often a loop that waits for its turn looks whether it has come."""


class Resident(Protocol):
    """What is needed of the worker."""

    loop: asyncio.AbstractEventLoop | None
    claims: Claims

    @property
    def is_consuming(self) -> bool:
        """Whether it was started on its loop, and has not been stopped since."""

    @property
    def is_at_work(self) -> bool:
        """Whether it runs, starts or drains on its loop."""

    def forget_loop(self) -> Subscription | None:
        """Clear up what ran on its loop; what it consumed by is to be closed."""


class Left(NamedTuple):
    """What a loop leaves open."""

    connection: Connection
    subscription: Subscription | None


class Reach:
    """The way of one worker to its backend."""

    def __init__(
        self,
        worker: Resident,
        life: Life,
        driver: Driver,
        make: Callable[[], Driver] | None,
    ) -> None:
        # Nothing here refers to the worker, else one that nobody has were not freed at once.
        self._worker: Resident = weakref.proxy(worker)
        self._life = life
        self._driver = driver
        self.connection = Connection(driver)
        self.elsewhere = Elsewhere(make, life.refuse_if_stopped) if make is not None else None
        self.ready_on: asyncio.AbstractEventLoop | None = None
        """The loop on which a perform needs no further look: the quick way in."""
        self._binding = threading.Lock()
        self._users = 0
        """How many calls that aren't of the worker's own work are under way on its loop."""
        self._taker: asyncio.AbstractEventLoop | None = None
        """The loop that is about to start the worker."""

    # -- calls -------------------------------------------------------------------

    async def send(self, entries: Sequence[Entry]) -> None:
        """Hand entries to the backend, from whatever loop."""
        self._life.refuse_if_stopped()
        if self._worker.claims.distributed and self.elsewhere is not None:
            if await self.bind(use=True):
                await self._send_here(entries)
            else:
                await self.elsewhere.enqueue(entries)
            return
        while not await self.bind(use=True):
            if self._worker.is_consuming:
                await self._send_to_its_loop(entries)
                return
            await asyncio.sleep(TURN_SECONDS)
        await self._send_here(entries)

    async def _send_here(self, entries: Sequence[Entry]) -> None:
        try:
            connection = self.connection
            if not connection.is_open:
                if await connection.share(self._life.refuse_if_stopped):
                    self.note_claims()
                self._life.refuse_if_stopped()
            connection.is_shared = True
            if self._worker.is_consuming or self._worker.claims.distributed:
                self.ready_on = self._worker.loop
            await connection.outbox.send(entries)
        finally:
            with self._binding:
                self._users = max(0, self._users - 1)

    async def _send_to_its_loop(self, entries: Sequence[Entry]) -> None:
        loop = await self._other_loop("perform")
        if loop is None:
            await self.send(entries)
            return
        await run_elsewhere(self.connection.outbox.send(entries), loop)

    async def look(self, action: Callable[[Any], Awaitable[T]]) -> T:
        """Let `action` look at the backend, from whatever loop, and also after a stop."""
        if await self.bind(use=True):
            try:
                if await self.connection.share():
                    self.note_claims()
                return await self.connection.use(action)
            finally:
                with self._binding:
                    self._users = max(0, self._users - 1)
        if self._worker.claims.distributed and self.elsewhere is not None:
            return await self.elsewhere.use(action)
        loop = await self._other_loop("look at")
        if loop is None:
            return await self.look(action)
        return await run_elsewhere(self.look(action), loop)

    def note_claims(self) -> None:
        """What the driver has learned about its claims when it was opened."""
        if isinstance(self._driver, ClaimNotes):
            claims = self._worker.claims
            notes = {**claims.notes, **self._driver.claim_notes()}
            self._worker.claims = replace(claims, notes=notes)

    # -- whose turn it is ----------------------------------------------------------

    async def bind(self, *, use: bool = False) -> bool:
        """Have the worker belong to the running loop; False if another one has it, and may go on.

        With `use`, no other loop can have it until the number of users is less by one again.
        """
        loop = asyncio.get_running_loop()
        left = None
        with self._binding:
            former = self._worker.loop
            if self._taker is not None and self._taker is not loop:
                return False  # it is about to start
            if former is not loop:
                if former is not None and not self._is_left(former):
                    return False
                self._worker.loop = loop
                if former is not None:
                    left = self._leave()
            self._users += use
        if left is not None:
            async with self.connection.turn:
                await self._close(left)
        return True

    async def bind_for_start(self) -> None:
        """Belong to the running loop, also if another one that runs only performs with us."""
        self._taker = asyncio.get_running_loop()
        try:
            for _ in range(TAKING_TURNS):  # a loop in its end runs and rests by turns
                await self._take_over()
                if self._worker.is_at_work or await self.bind():
                    break
                await asyncio.sleep(TURN_SECONDS)
            await self.bind_here("start")
        finally:
            self._taker = None

    async def bind_here(self, verb: str) -> None:
        """Belong to the running loop, or say why that can't be."""
        if await self._other_loop(verb) is not None:
            raise UsageError(
                f"{self._life!r} belongs to an event loop that runs in another thread: {verb} it "
                f"there, or by worker.sync.{verb}() from a thread without a loop"
            )

    async def _other_loop(self, verb: str) -> asyncio.AbstractEventLoop | None:
        """The loop that has the worker, while it runs; None if this one has got it instead."""
        for _ in range(LOOKS):
            if await self.bind():
                return None
            loop = self._worker.loop
            if loop is not None and loop.is_running():
                return loop
            await asyncio.sleep(LOOK_SECONDS)  # one that comes to its end is closed soon
        raise UsageError(
            f"{self._life!r} belongs to an event loop that doesn't run just now: run that one "
            f"again and {verb} it there, or close that loop"
        )

    async def _take_over(self) -> None:
        """Before a start: leave a loop that runs elsewhere, and on which we only performed."""
        here = asyncio.get_running_loop()
        while True:
            with self._binding:
                former = self._worker.loop
                if former is None or former is here or not former.is_running():
                    return
                if self._worker.is_at_work or not self._worker.claims.distributed:
                    return
                self.ready_on = None
                if not self._users:
                    self._worker.loop = here
                    left = self._leave()
                    break
            await asyncio.sleep(TURN_SECONDS)
        if left is not None:
            try:
                async with asyncio.timeout_at(StopBudget(0).driver):
                    await run_elsewhere(left.connection.leave(0), former)
            except Exception as error:
                tell_of_close(error)

    def _is_left(self, former: asyncio.AbstractEventLoop) -> bool:
        """Whether nothing of ours goes on on a loop: then it is another one's turn."""
        if former.is_closed():
            return True
        if self._worker.is_at_work or self._users:
            return False
        is_shared = self.elsewhere is not None and self._worker.claims.distributed
        return not former.is_running() or not is_shared

    # -- a loop that we leave, or that has left us -----------------------------------

    def _leave(self) -> Left | None:
        """Forget the loop that we had, which may be closed; None if nothing was open on it."""
        connection, self.connection = self.connection, Connection(self._driver)
        self.ready_on = None
        self._users = 0
        subscription = self._worker.forget_loop()
        return Left(connection, subscription) if connection.is_open else None

    async def _close(self, left: Left) -> Sequence[str]:
        """Close on the running loop what one that is closed has left open."""
        connection = Connection(self._driver)
        connection.is_open = True
        return await connection.close(left.subscription, StopBudget(0))

    def leave_closed_loop(self) -> Sequence[str]:
        """Let go of what we hold, if our loop was closed without a stop.

        Returns the ids of the jobs that nothing but the driver remembers.
        """
        if not self._binding.acquire(blocking=False):
            return ()  # another loop is about to have us; if it doesn't, the next look finds that
        try:
            loop = self._worker.loop
            if loop is None or not loop.is_closed():
                return ()
            self._worker.loop = None
            left = self._leave()
            return asyncio.run(self._close(left)) if left is not None else ()
        finally:
            self._binding.release()
