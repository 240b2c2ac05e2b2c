"""What a user must be allowed to do, and what is said when it isn't."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from functools import partial
from pathlib import Path
from urllib.parse import quote

import pytest
from support import DEADLINE

import offload
from offload import BackendError, Job

README = Path(__file__).parents[1] / "README.md"
PASSWORD = "c4n4ry/p@ss"


def allowed() -> list[str]:
    """The rules of the user that the README tells of."""
    (rules,) = re.findall(r"^ACL SETUSER jobs on >secret (.*)$", README.read_text(), re.MULTILINE)
    return rules.split()


@pytest.fixture
def user(server, store, space):
    """Makes a user with the rules of the README, and those that follow; returns its URL."""
    name = f"user-{space}"

    def make(*rules: str) -> str:
        known = [rule.replace("offload", space) for rule in allowed()]
        store.execute_command("ACL", "SETUSER", name, "reset", "on", f">{PASSWORD}", *known, *rules)
        return server.url.replace("//", f"//{name}:{quote(PASSWORD, safe='')}@")

    yield make
    store.execute_command("ACL", "DELUSER", name)


def warnings_of(caplog):
    return [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]


async def test_the_user_of_the_readme_may_do_everything(
    make, idle, user, store, keys, recorder, caplog
):
    worker = make(user(), lease="1s", wait_replicas=0)
    worker.register("note", recorder.note)
    worker.register("hold", recorder.hold)
    worker.register("fail", recorder.failing(9), max_attempts=1)
    store.hset(keys.running, "ghost.1", "a 0 5 {}")
    store.hset(keys.dead_jobs, "half", "half 0 5 {}")
    store.set(keys.wake, "mine")
    await worker.start()
    await worker.perform_many([Job("note"), Job("fail"), Job("hold")])
    await worker.perform_in(Job("note"), 0.05)
    await recorder.until_started(4)
    await idle(worker, dead=3, running=1)
    letters = await worker.dead_letters.list()
    assert await worker.dead_letters.show(letters[0].id) is not None
    assert len(await worker.dead_letters.requeue([letters[1].id])) == 1
    assert len(await worker.dead_letters.discard([letters[0].id])) == 1
    assert (await worker.stop()).returned
    assert not [line for line in warnings_of(caplog) if "may not" in line or "lacks" in line]


COMMANDS = sorted(
    rule[1:].upper()
    for rule in allowed()
    if rule.startswith("+")
    and rule not in ("+eval", "+evalsha", "+ping", "+info", "+config|get", "+select", "+type")
    and rule not in ("+rename", "+smembers", "+llen", "+wait", "+incr")
)


@pytest.mark.parametrize("command", COMMANDS)
async def test_a_command_that_is_missing_is_named_at_the_start(make, user, caplog, command):
    worker = make(user(f"-{command}"), grace="0s")
    with contextlib.suppress(BackendError):
        await worker.start()
    named = [line for line in warnings_of(caplog) if re.search(rf"\b{command}\b", line)]
    assert named
    assert "README" in named[0] and len(named[0]) < 2000
    assert PASSWORD not in caplog.text


async def test_a_key_that_is_missing_is_named_at_the_start(make, user, space, caplog):
    worker = make(user("resetkeys", f"~{space}:queues", f"~{space}:{{other}}:*"))
    with pytest.raises(BackendError, match="permission"):
        await worker.perform(Job("note"))
    (line,) = warnings_of(caplog)
    assert f"{space}:{{default}}:ready" in line


async def test_who_may_not_wait_is_told_so_and_does_not_spin(make, user, store, recorder, caplog):
    """A user without BZPOPMIN: jobs begin up to a second late, in silence no more."""
    worker = make(user("-bzpopmin"))
    worker.register("note", recorder.note)
    await worker.start()
    store.config_resetstat()
    for number in range(2):
        await worker.perform(Job("note"))
        await recorder.until_started(number + 1)
    refused = store.info("commandstats")["cmdstat_bzpopmin"]["rejected_calls"]
    assert refused <= 1
    late = [line for line in warnings_of(caplog) if "late" in line]
    assert len(late) == 1 and "bzpopmin" in late[0].lower()


async def test_a_waker_that_fails_does_not_spin(make, idle, recorder, caplog, monkeypatch):
    """Whatever it fails with: jobs are found by looking, once a second."""
    worker = make()
    worker.register("note", recorder.note)
    asked = []

    async def fail(*command):
        asked.append(command)
        raise TypeError("odd")

    await worker.start()
    waker = worker._dispatcher.subscription._waker
    await idle(worker)
    ((commands, _),) = waker._places
    monkeypatch.setattr(commands, "ask", fail)
    for number in range(3):
        await worker.perform(Job("note"))
        await recorder.until_started(number + 1)
    assert len(asked) == 1
    assert len([line for line in warnings_of(caplog) if "late" in line]) == len(asked)


async def test_a_waker_whose_marker_is_a_stray_key_wakes_again(make, idle, store, keys, recorder):
    worker = make()
    worker.register("note", recorder.note)
    await worker.start()
    await worker.perform(Job("note"))
    await recorder.until_started(1)
    await idle(worker)
    store.set(keys.wake, "mine")
    async with asyncio.timeout(DEADLINE):
        while store.exists(keys.wake):  # the waker puts it aside, with no job to be seen
            await asyncio.sleep(0.02)


# -- outages -----------------------------------------------------------------------


async def test_an_outage_is_no_flood_of_lines(make, wire, recorder, caplog):
    """The fetch reports it; the waker and the sweeper have nothing to add."""
    caplog.set_level(logging.DEBUG, "offload")
    worker = make(wire.url, lease="1s", timeout="300ms")
    worker.register("note", recorder.note)
    await worker.start()
    await worker.perform(Job("note"))
    await recorder.until_started(1)
    wire.refusing = True
    wire.reset()
    refused = wire.accepted
    async with asyncio.timeout(DEADLINE):
        while wire.accepted < refused + 15:
            await asyncio.sleep(0.05)
    told = [each for each in caplog.records if "offload_redis" in each.pathname]
    assert len(told) <= 2
    wire.refusing = False
    await make().perform(Job("note"))
    await recorder.until_started(2)


# -- passwords ---------------------------------------------------------------------


def frames_of(error):
    """What an error reporter would look at that records local variables."""
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        trace = error.__traceback__
        while trace is not None:
            if "/tests/" not in trace.tb_frame.f_code.co_filename:
                yield trace.tb_frame
            trace = trace.tb_next
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize("by", ["loop", "thread"])
@pytest.mark.parametrize("scheme", ["redis", "redis+cluster", "redis+sentinel"])
async def test_conf_5_a_password_is_no_local_variable_of_any_frame(server, space, user, scheme, by):
    url = user().replace("redis", scheme, 1).replace(quote(PASSWORD, safe=""), "c4n4ry-wr0ng")
    path = "/mymaster" if "sentinel" in scheme else ""
    worker = offload.connect(f"{url}{path}?namespace={space}")
    perform = worker.perform if by == "loop" else partial(asyncio.to_thread, worker.sync.perform)
    with pytest.raises(BackendError) as caught:
        await perform(Job("note"))
    frames = list(frames_of(caught.value))
    assert len(frames) > 3
    for frame in frames:
        for name, value in frame.f_locals.items():
            assert "c4n4ry" not in repr(value), (frame.f_code.co_qualname, name)
    await asyncio.to_thread(worker.sync.stop)


async def test_conf_5_a_password_is_in_no_repr(server, user):
    worker = offload.connect(user())
    driver = worker._driver
    for thing in (driver, driver._server, driver._link, driver._link._connection):
        assert "c4n4ry" not in repr(thing)
        assert "c4n4ry" not in repr(vars(thing))


@pytest.mark.parametrize("command", COMMANDS)
async def test_a_command_that_is_forbidden_for_a_while_loses_nothing(
    command, make, user, store, recorder
):
    """Redis undoes nothing of a script in which a command is refused."""
    worker = make(user(), concurrency=5)
    worker.register("hold", recorder.hold)
    await worker.start()
    await worker.perform_many([Job("hold")] * 300)
    await recorder.until_started(5)
    user(f"-{command.replace(' ', '|')}")
    recorder.gate.set()
    async with asyncio.timeout(DEADLINE):
        for _ in range(20):  # in which it fetches, settles and fails
            await asyncio.sleep(0.01)
        user()
        await recorder.until(lambda: len(set(recorder.ended)) == 300)
    assert (await worker.counts()).get("default", offload.QueueCounts()).dead == 0


async def test_a_lease_that_comes_back_keeps_no_job_of_a_run_that_was_cancelled(
    make, store, keys, recorder
):
    worker = make(lease="1s")
    worker.register("hold", recorder.hold)
    await worker.start()
    await worker.perform(Job("hold"))
    await recorder.until_started(1)
    async with asyncio.timeout(DEADLINE):
        store.rename(keys.leases, "aside")
        while recorder.running:  # its lease is lost, and the run is cancelled
            await asyncio.sleep(0.001)
        if store.exists("aside") and not store.exists(keys.leases):
            store.rename("aside", keys.leases)
        await recorder.until_started(2)
        recorder.gate.set()
        while await worker.counts():
            await asyncio.sleep(0.01)
