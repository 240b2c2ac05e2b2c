"""Workers in processes of their own: struck for real, and it shows whether that hit anything."""

from __future__ import annotations

import functools
import signal

import pytest

import offload
from offload import Job
from offload_conformance.history import History
from offload_conformance.processes import WorkerProcess
from offload_conformance.stage import Stage, TooLateError
from offload_conformance.verdicts import Verdict, judge


@pytest.fixture
async def stage():
    async with Stage(History()) as stage:
        yield stage


@pytest.fixture
def act(sqlite_url, connect):
    """Perform a job that does this."""
    performer = connect(sqlite_url)

    async def act(*steps):
        return await performer.perform(Job("act", {"tag": "a", "do": {"*": list(steps)}}))

    return act


async def until_started(stage: Stage, count: int = 1) -> None:
    await stage.until("it to start", lambda: len(stage.history.named("started")) >= count)


def verdict(stage: Stage) -> Verdict:
    stage.history.add("check", check="equal", what="x", expected=1, actual=1)
    return judge(stage.history.events)[0]


async def test_a_kill_that_hits_a_job(stage, sqlite_url, act):
    async with WorkerProcess(sqlite_url, stage, "victim") as victim:
        job_id = await act(["gate", "never"])
        await until_started(stage)
        await victim.kill()
        assert victim.process.returncode == -signal.SIGKILL
    (hit,) = stage.history.named("fault_hit")
    assert hit.what == {"kind": "kill", "running": [job_id]}
    assert verdict(stage) is Verdict.PASS


async def test_a_kill_that_hits_nothing_proves_nothing(stage, sqlite_url, act):
    async with WorkerProcess(sqlite_url, stage, "victim") as victim:
        await act()
        await stage.until("it to end", lambda: bool(stage.history.named("ended")))
        await victim.kill()
    assert stage.history.named("fault_hit") == []
    assert verdict(stage) is Verdict.UNKNOWN


async def test_a_kill_between_jobs_hits_a_worker_that_has_some_left(stage, sqlite_url, act):
    async with WorkerProcess(sqlite_url, stage, "victim") as victim:
        await act()
        await stage.until("it to end", lambda: bool(stage.history.named("ended")))
        stage.history.add("accepted", call="a call", tag="left", ids=["a", "b"], asked_ms=0.0)
        await victim.kill(between_jobs=True)
    (hit,) = stage.history.named("fault_hit")
    assert hit.what == {"kind": "kill", "running": [], "left": ["a", "b"]}
    assert verdict(stage) is not Verdict.UNKNOWN


async def test_a_freeze_holds_and_a_thaw_lets_go(stage, sqlite_url, act, connect):
    async with WorkerProcess(sqlite_url, stage, "frozen") as frozen:
        job_id = await act(["gate", "one"])
        await until_started(stage)
        frozen.freeze()
        stage.open("one")
        # Another that is awake does its part meanwhile; the frozen one does nothing.
        async with WorkerProcess(sqlite_url, stage, "awake"):
            await act(["gate", "one"])
            await until_started(stage, 2)
            await stage.until("it to end", lambda: bool(stage.history.named("ended")))
        assert [event.what["worker"] for event in stage.history.named("ended")] == ["awake"]
        frozen.thaw()
        await stage.until("both to end", lambda: len(stage.history.named("ended")) == 2)
    (hit,) = stage.history.named("fault_hit")
    assert hit.what == {"kind": "freeze", "running": [job_id]}


async def test_a_frozen_one_is_cleared_away(stage, sqlite_url):
    async with WorkerProcess(sqlite_url, stage, "frozen") as frozen:
        frozen.freeze()
    assert frozen.process.returncode == -signal.SIGKILL
    assert verdict(stage) is Verdict.UNKNOWN


async def test_one_that_never_gets_ready_is_killed(stage, monkeypatch, tmp_path):
    hangs = tmp_path / "hangs"
    hangs.write_text("#!/bin/sh\nexec sleep 60\n")
    hangs.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(hangs))
    monkeypatch.setattr(stage, "until", functools.partial(stage.until, deadline=0.1))
    victim = WorkerProcess("simple://", stage, "victim")
    with pytest.raises(TooLateError, match="victim to start"):
        await victim.__aenter__()
    assert victim.process.returncode == -signal.SIGKILL


async def test_a_job_that_kills_its_process(stage, sqlite_url, act):
    async with WorkerProcess(sqlite_url, stage, "victim") as victim:
        await act(["kill"])
        assert await victim.wait() == -signal.SIGKILL
    assert len(stage.history.named("started")) == 1


async def test_puppets_perform_and_count_themselves(stage, sqlite_url, act, connect):
    performer = connect(sqlite_url)
    async with WorkerProcess(sqlite_url, stage, "worker"):
        await act(["perform_in", "b", 0.01])
        ids = await performer.perform_many([Job("tally")] * 100)
        await stage.until("b", lambda: len(stage.history.named("ended")) == 2)

        def tallied() -> list[str]:
            return [i for event in stage.history.named("tallied") for i in event.what["ids"]]

        await stage.until("all", lambda: len(tallied()) == 100)
        assert sorted(tallied()) == sorted(ids)
    (accepted,) = stage.history.named("accepted")
    assert accepted.what["tag"] == "b" and accepted.what["due_ms"] > 0
    assert isinstance(performer, offload.Worker)
