"""A driver on one event loop, with all calls of it but those of its subscription."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any, TypeVar

from offload.driver import Driver, Subscription
from offload.engine.calls import Calls
from offload.engine.logs import engine_log, write
from offload.engine.opening import Opening
from offload.engine.outbox import Outbox
from offload.engine.stop_budget import StopBudget
from offload.errors import BackendError

T = TypeVar("T")


def _allow() -> None:
    """Refuse nobody."""


class Connection:
    """Opens a driver when it is needed, and closes it when nothing is under way any more.

    `open`, `subscribe` and `close` come one at a time, each within the `turn`.
    """

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.is_open = False
        self.is_shared = False
        """Whether others use it than a start."""
        self.turn = asyncio.Lock()
        self.calls = Calls()
        self.outbox = Outbox(driver.enqueue, self.calls)
        self._opening = Opening()

    @contextlib.asynccontextmanager
    async def opened(self, check: Callable[[], None] = _allow) -> AsyncIterator[bool]:
        """Have it open, and the turn; tell whether it has been opened for that.

        `check` may refuse it when the turn has come.
        """
        failed_before = self._opening.failures
        async with self.turn:
            check()
            is_new = not self.is_open
            if is_new:
                await self.calls.make(self._open, failed_before, changes=False)
                self.is_open, self.is_shared = True, False
            yield is_new

    async def _open(self, failed_before: int) -> None:
        await self._opening.open(self.driver, failed_before)

    async def share(self, check: Callable[[], None] = _allow) -> bool:
        """As `opened`, for a caller that isn't a start, which then leaves it open."""
        async with self.opened(check) as is_new:
            self.is_shared = True
            return is_new

    async def use(self, action: Callable[[Any], Awaitable[T]]) -> T:
        """Let `action` work with the driver, which is open."""
        return await self.calls.make(action, self.driver)

    @contextlib.asynccontextmanager
    async def last_turn(self, budget: StopBudget) -> AsyncIterator[None]:
        """Have the turn, in order to close: what keeps it for too long is ended."""
        try:
            async with asyncio.timeout_at(budget.calls):
                await self.turn.acquire()
        except TimeoutError:
            self.calls.end()
            await self.turn.acquire()
        try:
            yield
        finally:
            self.turn.release()

    async def close(self, subscription: Subscription | None, budget: StopBudget) -> Sequence[str]:
        """Disconnect, within the turn. Returns what `Driver.close` does; tells of what fails."""
        await self._end_calls(budget)
        if subscription is not None:
            await self.close_subscription(subscription, budget)
        if self.is_open:
            self.is_open = False
            with _told():
                async with asyncio.timeout_at(budget.driver):
                    return await self.driver.close()
        return ()

    async def close_subscription(self, subscription: Subscription, budget: StopBudget) -> None:
        """Stop consuming; tells of what fails."""
        with _told():
            async with asyncio.timeout_at(budget.subscription):
                await subscription.close()

    async def leave(self, grace: float) -> None:
        """Disconnect for good; what is under way has the grace, and the budget of a stop."""
        budget = StopBudget(grace)
        async with self.last_turn(budget):
            await self.close(None, budget)
            self.calls.end()

    async def _end_calls(self, budget: StopBudget) -> None:
        """Wait for what is under way, and cancel what takes too long."""
        try:
            async with asyncio.timeout_at(budget.calls):
                await self.outbox.idle()
                await self.calls.idle()
        except TimeoutError:
            self.outbox.give_up()
            self.calls.end()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(budget.cancelled):
                    await self.outbox.idle()
                    await self.calls.idle()


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        tell_of_close(error)


def tell_of_close(error: Exception) -> None:
    """Log that something couldn't be closed."""
    if isinstance(error, (TimeoutError, BackendError)):
        line = "the backend didn't answer while the worker disconnected: %r"
        write(engine_log.warning, line, error)
    else:
        write(engine_log.error, "the driver failed to close", error=error)
