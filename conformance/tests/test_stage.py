"""The stage: reports come in order, gates hold, and what doesn't come is told."""

from __future__ import annotations

import asyncio
import json
import socket
import struct

import pytest

from offload_conformance.history import History
from offload_conformance.stage import Stage, TooLateError
from offload_conformance.verdicts import Verdict, judge


class Puppet:
    """Somebody who talks to the stage."""

    def __init__(self, stage: Stage) -> None:
        host, _, port = stage.address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)))

    def say(self, **what: object) -> None:
        self.socket.sendall(json.dumps(what).encode() + b"\n")

    async def hear(self) -> bytes:
        return await asyncio.to_thread(self.socket.recv, 100)


@pytest.fixture
async def stage():
    async with Stage(History()) as stage:
        yield stage


@pytest.fixture
def puppet(stage):
    puppet = Puppet(stage)
    yield puppet
    puppet.socket.close()


async def test_reports_come_in_order(stage, puppet):
    for number in range(100):
        puppet.say(event="said", number=number)
    await stage.until("all", lambda: len(stage.history.named("said")) == 100)
    assert [event.what["number"] for event in stage.history.events] == list(range(100))
    assert [event.number for event in stage.history.events] == list(range(100))


async def test_until_holds_at_once_or_is_told(stage):
    await stage.until("nothing", lambda: True, deadline=0)
    with pytest.raises(TooLateError, match=r"expected a wonder within 0.01 s"):
        await stage.until("a wonder", lambda: False, deadline=0.01)
    assert judge(stage.history.events) == (Verdict.FAIL, ["a wonder did not come in time"])


async def test_until_looks_again_when_it_is_poked(stage):
    seen = []
    waiting = asyncio.create_task(stage.until("it", lambda: bool(seen)))
    await asyncio.sleep(0)
    seen.append(1)
    stage.poke()
    await waiting


async def test_a_gate_holds_until_it_is_opened(stage, puppet):
    puppet.say(gate="one")
    puppet.say(event="at the gate")
    await stage.until("it", lambda: bool(stage.history.named("at the gate")))
    puppet.socket.setblocking(False)
    with pytest.raises(BlockingIOError):
        puppet.socket.recv(10)
    puppet.socket.setblocking(True)
    stage.open("another")
    stage.open("one")
    assert await puppet.hear() == b"go\n"
    puppet.say(gate="one")
    assert await puppet.hear() == b"go\n"


async def test_a_gate_opened_before_anybody_came(stage, puppet):
    stage.open("one")
    puppet.say(gate="one")
    assert await puppet.hear() == b"go\n"


async def test_all_gates(stage, puppet):
    puppet.say(gate="one")
    puppet.say(event="here")
    await stage.until("it", lambda: bool(stage.history.named("here")))
    stage.open_all()
    assert await puppet.hear() == b"go\n"
    puppet.say(gate="two")
    assert await puppet.hear() == b"go\n"


async def test_a_puppet_that_is_killed_spoils_nothing(stage, puppet):
    puppet.say(event="last words")
    await stage.until("it", lambda: bool(stage.history.named("last words")))
    linger = struct.pack("ii", 1, 0)
    puppet.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    puppet.socket.close()
    other = Puppet(stage)
    other.say(event="well")
    await stage.until("it", lambda: bool(stage.history.named("well")))
    other.socket.close()


async def test_a_very_long_report(stage, puppet):
    await asyncio.to_thread(puppet.say, event="long", text="é" * 1_000_000)
    await stage.until("it", lambda: bool(stage.history.named("long")))


async def test_what_was_sent_before_the_senders_left_is_in_the_history():
    history = History()
    async with Stage(history) as stage:
        puppet = Puppet(stage)
        puppet.say(event="hello")
        await stage.until("it", lambda: bool(history.events))
        for _ in range(500):
            puppet.say(event="said")
        puppet.socket.close()
    assert len(history.named("said")) == 500
