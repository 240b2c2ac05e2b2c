"""The proxy in which the kit cuts the wire, against a real server that echoes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from offload_conformance.checks import vacuous
from offload_conformance.history import History
from offload_conformance.leaks import Belongings
from offload_conformance.proxy import FaultProxy
from offload_conformance.verdicts import Verdict, judge

DEADLINE = 5
CUT = (ConnectionError, asyncio.IncompleteReadError)


class Echo:
    """A backend: sends back whatever comes."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.ended = asyncio.Event()
        self.serving: set[asyncio.Task[None]] = set()

    def greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self.serve(reader, writer))
        self.serving.add(task)
        task.add_done_callback(self.serving.discard)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                self.received += data
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            self.ended.set()
            writer.close()


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    echo = Echo()
    server = await asyncio.start_server(echo.greet, "127.0.0.1", 0)
    echo.port = server.sockets[0].getsockname()[1]
    yield echo
    server.close()
    if echo.serving:
        await asyncio.wait(echo.serving, timeout=DEADLINE)


@pytest.fixture
def history() -> History:
    return History()


@pytest.fixture
async def proxy(echo, history) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(history, "127.0.0.1", echo.port) as proxy:
        yield proxy


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not holds():
            await asyncio.sleep(0.001)


class Client:
    """A worker's connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def receive(self, count: int) -> bytes:
        return await asyncio.wait_for(self.reader.readexactly(count), DEADLINE)

    async def echoes(self, data: bytes = b"hello") -> bool:
        await self.send(data)
        return await self.receive(len(data)) == data


@asynccontextmanager
async def connected(proxy: FaultProxy) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()


async def test_it_forwards_both_ways(proxy):
    async with connected(proxy) as client:
        assert await client.echoes()
        data = bytes(range(256)) * 10_000
        sending = asyncio.create_task(client.send(data))
        assert await client.receive(len(data)) == data
        await sending
        assert proxy.connections == 1


async def test_the_end_of_a_connection_is_forwarded(proxy, echo):
    async with connected(proxy) as client:
        await client.send(b"bye")
        client.writer.write_eof()
        assert await client.receive(3) == b"bye"
        assert await asyncio.wait_for(client.reader.read(), DEADLINE) == b""
    await asyncio.wait_for(echo.ended.wait(), DEADLINE)


async def test_a_backend_that_is_away(history):
    async with FaultProxy(history, "127.0.0.1", 1) as proxy, connected(proxy) as client:
        with pytest.raises(CUT):
            await client.receive(1)


async def test_reset(proxy, echo, history):
    async with connected(proxy) as client:
        assert await client.echoes()
        proxy.reset()
        with pytest.raises(CUT):
            await client.receive(1)
        await asyncio.wait_for(echo.ended.wait(), DEADLINE)
    async with connected(proxy) as client:
        assert await client.echoes()
    assert vacuous(history.events) == []


async def test_a_black_hole_and_its_healing(proxy, echo, history):
    async with connected(proxy) as client:
        assert await client.echoes(b"before")
        proxy.swallow()
        await client.send(b"lost")
        async with connected(proxy) as other:
            await other.send(b"lost too")
            await until(lambda: proxy.connections == 2)
            await proxy.heal()
        with pytest.raises(CUT):
            await client.receive(1)
    async with connected(proxy) as client:
        assert await client.echoes(b"after")
    assert bytes(echo.received) == b"beforeafter"
    assert vacuous(history.events) == []


async def test_half_open_only_what_is_connected_is_silent(proxy, echo, history):
    async with connected(proxy) as client:
        assert await client.echoes(b"before")
        proxy.half_open()
        await client.send(b"lost")
        async with connected(proxy) as other:
            assert await other.echoes(b"new")
        await proxy.heal()
        with pytest.raises(CUT):
            await client.receive(1)
    assert bytes(echo.received) == b"beforenew"
    assert vacuous(history.events) == []


async def test_refuse(proxy, history):
    async with connected(proxy) as client:
        assert await client.echoes()
        proxy.refuse()
        with pytest.raises(CUT):
            await client.receive(1)
    with pytest.raises(CUT):
        async with connected(proxy) as client:
            await client.echoes()
    await proxy.heal()
    async with connected(proxy) as client:
        assert await client.echoes()
    assert vacuous(history.events) == []


@pytest.mark.parametrize("count", [0, 1, 3, 9])
async def test_cut_in_the_middle(proxy, echo, history, count):
    async with connected(proxy) as client:
        assert await client.echoes(b"before")
        proxy.cut_after_bytes(count)
        await client.send(b"0123456789")
        with pytest.raises(CUT):
            await client.receive(10)
        await asyncio.wait_for(echo.ended.wait(), DEADLINE)
    # A reset may overtake what was sent before it, so fewer may have come, and never more.
    assert b"before0123456789"[: 6 + count].startswith(bytes(echo.received))
    assert vacuous(history.events) == []
    async with connected(proxy) as client:
        assert await client.echoes()


async def test_a_cut_counts_the_bytes_of_several_writes(proxy, history):
    async with connected(proxy) as client:
        proxy.cut_after_bytes(7)
        assert await client.echoes(b"hello")
        assert vacuous(history.events)
        with pytest.raises(CUT):
            await client.echoes(b"hello")
    assert vacuous(history.events) == []


async def test_what_goes_to_the_worker_is_not_counted(proxy, history):
    async with connected(proxy) as client:
        assert await client.echoes(b"0123456789")
        proxy.cut_after_bytes(6)
        assert await client.echoes(b"hello")
    assert vacuous(history.events) == ["the fault 'cut' hit nothing"]


async def test_latency(proxy):
    proxy.latency = 0.02
    loop = asyncio.get_running_loop()
    async with connected(proxy) as client:
        began = loop.time()
        assert await client.echoes()
        assert loop.time() - began >= 0.04


@pytest.mark.parametrize(
    "strike",
    [
        FaultProxy.reset,
        FaultProxy.swallow,
        FaultProxy.half_open,
        FaultProxy.refuse,
        lambda proxy: proxy.cut_after_bytes(1),
    ],
    ids=["reset", "swallow", "half_open", "refuse", "cut"],
)
async def test_a_fault_that_hits_nothing_proves_nothing(proxy, history, strike):
    async with connected(proxy) as client:
        assert await client.echoes()
    # Until the proxy has noticed that nobody is connected any more.
    await until(lambda: proxy.connections == 0)
    strike(proxy)
    history.add("check", check="equal", what="x", expected=1, actual=1)
    assert history.named("fault_hit") == []
    assert judge(history.events)[0] is Verdict.UNKNOWN


async def test_nothing_is_left_of_it(echo, history):
    before = Belongings.now()
    async with FaultProxy(history, "127.0.0.1", echo.port) as proxy, connected(proxy) as client:
        assert await client.echoes()
        proxy.half_open()
    # The client and the server are of this test; what is the proxy's ends with it.
    await until(lambda: Belongings.now().more_than(before) == [])
