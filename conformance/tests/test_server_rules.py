"""DUR-3 to DUR-5 need a backend that can be struck: here a small one, right and with slips.

Its server keeps jobs in a memory that outlives its connections, as a database file would. What a
connection had leased goes back when it ends.
"""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from offload import (
    Adapter,
    BackendUnavailableError,
    Claims,
    Delivery,
    Entry,
    Fetched,
    Limits,
    Settlement,
)
from offload.config import Config, parse_address, read_config
from offload_conformance.history import History
from offload_conformance.lab import Lab, RuleBrokenError
from offload_conformance.stage import Stage, TooLateError
from offload_conformance.suite import test_dur
from offload_conformance.verdicts import Verdict, judge
from offload_simple.driver import SimpleDriver
from offload_simple.subscription import SimpleSubscription


class Backend:
    """A server of jobs, which can be killed and started again."""

    def __init__(self, *, forgets: bool = False) -> None:
        self._forgets = forgets
        self._store = self._new_store()
        self._port = 0
        self._conversations: set[asyncio.Task[None]] = set()

    @staticmethod
    def _new_store() -> SimpleDriver:
        return SimpleDriver(read_config(parse_address("simple://"), ()))

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self._port

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._greet, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def kill(self) -> None:
        self._server.close()
        for conversation in self._conversations:
            conversation.cancel()
        if self._conversations:
            await asyncio.wait(self._conversations)
        if self._forgets:
            self._store = self._new_store()

    def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        conversation = asyncio.create_task(self._converse(reader, writer))
        self._conversations.add(conversation)
        conversation.add_done_callback(self._conversations.discard)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        leased: dict[tuple[str, int], Any] = {}
        try:
            while True:
                size = int.from_bytes(await reader.readexactly(4))
                method, argument = pickle.loads(await reader.readexactly(size))
                answer = pickle.dumps(await getattr(self, method)(argument, leased))
                writer.write(len(answer).to_bytes(4) + answer)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()
            memory = self._store._memory
            for job in leased.values():
                if memory.running.pop(job.id, None):
                    memory.ready[job.queue].append(job)

    async def enqueue(self, entries: Sequence[Entry], _: object) -> None:
        await self._store.enqueue(entries)

    async def fetch(self, argument: tuple[Sequence[str], int], leased: dict[Any, Any]) -> Fetched:
        queues, limit = argument
        fetched = await SimpleSubscription(self._store._memory, queues).fetch(limit)
        leased.update({(each.id, each.attempt): each.receipt for each in fetched.deliveries})
        bare = [msgspec.structs.replace(each, receipt=None) for each in fetched.deliveries]
        return Fetched(bare, fetched.next_due_ms)

    async def settle(
        self, settlements: Sequence[Settlement], leased: dict[Any, Any]
    ) -> Collection[Delivery]:
        foreign = []
        for each in settlements:
            job = leased.pop((each.delivery.id, each.delivery.attempt), None)
            delivery = msgspec.structs.replace(each.delivery, receipt=job)
            settled = msgspec.structs.replace(each, delivery=delivery)
            if await SimpleSubscription(self._store._memory, ()).settle([settled]):
                foreign.append(each.delivery)
        return foreign

    async def list_dead(self, argument: tuple[int, str | None], _: object) -> Any:
        return await self._store.list_dead(*argument)


class NetDriver:
    """The client's side: one connection, made anew when it was lost."""

    timeout: float | None = 0.3
    acknowledges_early = False

    def __init__(self, config: Config) -> None:
        self._address = (config.address.host, config.address.port)
        self._connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._turn = asyncio.Lock()

    async def call(self, method: str, argument: object) -> Any:
        async with self._turn:
            try:
                async with asyncio.timeout(self.timeout):
                    if self._connection is None:
                        self._connection = await asyncio.open_connection(*self._address)
                    reader, writer = self._connection
                    message = pickle.dumps((method, argument))
                    writer.write(len(message).to_bytes(4) + message)
                    await writer.drain()
                    size = int.from_bytes(await reader.readexactly(4))
                    return pickle.loads(await reader.readexactly(size))
            except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
                await self.close()
                raise BackendUnavailableError(repr(error), maybe_stored=True) from error
            except asyncio.CancelledError:
                await self.close()
                raise

    async def open(self) -> None:
        """Connects when it is called."""

    async def close(self) -> Sequence[str]:
        if self._connection is not None:
            self._connection[1].transport.abort()
            self._connection = None
        return ()

    async def enqueue(self, entries: Sequence[Entry]) -> None:
        try:
            await self.call("enqueue", entries)
        except BackendUnavailableError:
            if not self.acknowledges_early:
                raise

    async def subscribe(self, queues: Sequence[str]) -> NetSubscription:
        return NetSubscription(self, queues)

    async def list_dead(self, limit: int, after: str | None) -> Any:
        return await self.call("list_dead", (limit, after))

    async def show_dead(self, job_id: str) -> Any:
        raise NotImplementedError

    requeue_dead = discard_dead = show_dead


class NetSubscription:
    def __init__(self, driver: NetDriver, queues: Sequence[str]) -> None:
        self._driver = driver
        self._queues = queues

    async def fetch(self, limit: int) -> Fetched:
        return await self._driver.call("fetch", (self._queues, limit))

    async def wait(self, timeout: float) -> None:
        await asyncio.sleep(min(timeout, 0.02))

    async def settle(self, settlements: Sequence[Settlement]) -> Collection[Delivery]:
        return await self._driver.call("settle", settlements)

    async def close(self) -> None:
        """Nothing of its own."""


class NeverNoticesSilence(NetDriver):
    timeout = 2.5


class AcknowledgesBeforeTheAnswer(NetDriver):
    acknowledges_early = True


@pytest.fixture
def adapter(monkeypatch):
    """Let `net://` be the adapter with this driver."""

    def install(driver: type[NetDriver]) -> None:
        adapter = Adapter(
            claims=Claims(fifo=True, durable=True, distributed=True, dead_letters=True),
            limits=Limits(
                max_job_bytes=1 << 20,
                max_delay=timedelta(days=1),
                lateness=timedelta(milliseconds=50),
                recovery=timedelta(seconds=2),
                reconnect=timedelta(seconds=2),
            ),
            make=driver,
        )
        monkeypatch.setattr("offload.adapters.find_adapter", lambda _: adapter)
        monkeypatch.setattr("offload_conformance.lab.find_adapter", lambda _: adapter)

    return install


async def verdict_on(rule: Any, backend: Backend) -> Verdict:
    history = History()
    await backend.start()
    try:
        async with Stage(history) as stage:
            lab = Lab(f"net://127.0.0.1:{backend.address[1]}", stage, backend)
            try:
                await rule(lab)
            except (RuleBrokenError, TooLateError):
                pass
            finally:
                await lab.close()
        return judge(history.events)[0]
    finally:
        await backend.kill()


def cut(count):
    return lambda lab: test_dur.test_DUR_4_cut_while_performing(lab, count)


RULES = {
    "DUR-3": test_dur.test_DUR_3_a_kill_of_the_backend_loses_nothing,
    "DUR-4 1": cut(1),
    "DUR-4 40": cut(40),
    "DUR-4 200": cut(200),
    "DUR-5": test_dur.test_DUR_5_a_half_open_connection_is_noticed,
}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
async def test_a_right_adapter_passes(adapter, rule):
    adapter(NetDriver)
    assert await verdict_on(rule, Backend()) is Verdict.PASS


async def test_dur_3_a_backend_that_forgets_fails(adapter, monkeypatch):
    monkeypatch.setattr(test_dur, "PATIENCE", 0.5)
    adapter(NetDriver)
    assert await verdict_on(RULES["DUR-3"], Backend(forgets=True)) is Verdict.FAIL


async def test_dur_4_an_accepted_job_that_was_never_stored_fails(adapter):
    adapter(AcknowledgesBeforeTheAnswer)
    assert await verdict_on(RULES["DUR-4 1"], Backend()) is Verdict.FAIL


async def test_dur_5_silence_that_nobody_notices_fails(adapter):
    adapter(NeverNoticesSilence)
    assert await verdict_on(RULES["DUR-5"], Backend()) is Verdict.FAIL
