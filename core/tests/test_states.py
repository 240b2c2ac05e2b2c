"""The table of a worker's life, and the worker that goes by it."""

from __future__ import annotations

import asyncio

import picture
import pytest
from promises import ROOT
from watched import DEADLINE, away, nothing

from offload import AlreadyRunningError, BackendUnavailableError, Job, State, WorkerStoppedError
from offload.config import parse_address, read_config
from offload.engine.states import SEEN, TRANSITIONS, Event, Life, Phase


def new() -> Life:
    return Life(read_config(parse_address("simple://"), ()))


def after(*events: Event) -> Life:
    life = new()
    for event in events:
        life.happens(event)
    return life


def test_the_picture_is_up_to_date():
    """If not: python core/tests/picture.py > docs/states.md."""
    assert (ROOT / "docs/states.md").read_text() == picture.page()


def test_every_phase_has_a_row_and_can_be_reached():
    assert set(TRANSITIONS) == set(SEEN) == set(Phase)
    reached = {Phase.NEW}
    for _ in Phase:
        reached |= {end for phase in reached for end in TRANSITIONS[phase].values()}
    assert reached == set(Phase)


@pytest.mark.parametrize("phase", Phase)
def test_from_every_phase_a_stop_and_its_drain_lead_to_stopped(phase):
    life = new()
    life.phase = phase
    life.happens(Event.STOP)
    assert life.state is State.STOPPING
    with pytest.raises(WorkerStoppedError):
        life.refuse_if_stopped()
    life.happens(Event.DRAINED)
    assert life.state is State.STOPPED


@pytest.mark.parametrize("phase", Phase)
def test_a_loop_that_was_closed_leaves_no_phase_in_which_something_goes_on(phase):
    assert TRANSITIONS[phase][Event.LOOP_CLOSED] in (Phase.NEW, Phase.STOPPED)


def test_a_start_is_allowed_only_where_nothing_goes_on():
    allowed = [phase for phase, row in TRANSITIONS.items() if Event.START in row]
    assert allowed == [Phase.NEW, Phase.STOPPED]


def test_a_start_that_fails_leaves_the_worker_as_it_was():
    assert after(Event.START, Event.NOT_STARTED).phase is Phase.NEW
    restarted = after(Event.STOP, Event.DRAINED, Event.START)
    assert restarted.state is State.STOPPED
    with pytest.raises(WorkerStoppedError):
        restarted.refuse_if_stopped()
    restarted.happens(Event.NOT_STARTED)
    assert restarted.phase is Phase.STOPPED


@pytest.mark.parametrize("ends", [Event.STARTED, Event.NOT_STARTED])
def test_a_start_that_ends_amid_a_stop_changes_nothing(ends):
    assert after(Event.START, Event.STOP, ends).phase is Phase.STOPPING


def test_what_the_table_does_not_have_can_not_happen():
    with pytest.raises(KeyError):
        after(Event.DRAINED)


@pytest.mark.parametrize("is_first", [True, False], ids=["first start", "restart"])
async def test_a_stop_amid_a_start_is_seen_at_once_and_ends_it(is_first, watched):
    worker, watch = watched("grace=1s")
    worker.register("job", nothing)
    if not is_first:
        await worker.start()
        await worker.stop()
    before = worker.state
    watch.gates["open"] = asyncio.Event()
    starting = asyncio.create_task(worker.start())
    await watch.until(lambda: watch.under_way["open"])
    assert worker.state is before
    with pytest.raises(AlreadyRunningError):
        await worker.start()
    stopping = asyncio.create_task(worker.stop())
    await asyncio.sleep(0)
    assert worker.state is State.STOPPING
    with pytest.raises(WorkerStoppedError):
        await worker.perform(Job("job"))
    watch.gates["open"].set()
    async with asyncio.timeout(DEADLINE):
        await starting
        await stopping
    assert worker.state is State.STOPPED
    assert watch.ended[-2:] == ["subscription.close", "close"]


async def test_a_restart_that_fails_leaves_a_worker_stopped(watched):
    worker, watch = watched()
    await worker.start()
    await worker.stop()
    watch.errors["open"] = [away()]
    with pytest.raises(BackendUnavailableError):
        await worker.start()
    assert worker.state is State.STOPPED
    await worker.start()
    assert worker.state is State.RUNNING
