"""REG: handlers."""

from __future__ import annotations

from typing import Any

import pytest

from offload import Args, DuplicateHandlerError, Worker
from offload_conformance.lab import SOON, Lab

pytestmark = pytest.mark.asyncio


async def registering(worker: Worker, name: Any, handler: Any) -> None:
    worker.register(name, handler)


@pytest.mark.parametrize(
    "name", ["", "a b", "é", "x" * 129, "a\n", "a/b", "a\0", None, 3], ids=repr
)
async def test_REG_1_a_bad_name(lab: Lab, name: Any) -> None:
    worker = lab.worker()
    await lab.refused(ValueError, f"register {name!r}", registering(worker, name, print))


async def test_REG_1_good_names_run(lab: Lab) -> None:
    worker = lab.worker()
    names = ["a", "0", "x" * 128, "mail.send:v2-Beta_1", "-", "."]
    for name in names:
        worker.register(name, lab.troupe(worker).act)
    await worker.start()
    for name in names:
        await lab.perform(worker, name, handler=name)
    await lab.until_ended(len(names))
    lab.check("each_once")


@pytest.mark.parametrize("handler", ["print", None, 5, [print]], ids=repr)
async def test_REG_2_what_can_not_be_called(lab: Lab, handler: Any) -> None:
    worker = lab.worker()
    await lab.refused(TypeError, f"register {handler!r}", registering(worker, "new", handler))
    # The name isn't taken by what was refused.
    worker.register("new", lab.troupe(worker).act)
    await worker.start()
    await lab.perform(worker, "job", handler="new")
    await lab.until_ended(1, "job")
    lab.check("ended_as", tag="job", expected=["returned"])


@pytest.mark.parametrize("when", ["before start", "while it runs"])
async def test_REG_3_the_first_handler_stays(lab: Lab, when: str) -> None:
    worker = lab.worker()
    troupe = lab.troupe(worker)

    async def second(args: Args) -> None:
        troupe.report("second_ran", tag=args["tag"])

    if when == "while it runs":
        await worker.start()
    await lab.refused(DuplicateHandlerError, "register act", registering(worker, "act", second))
    if when == "before start":
        await worker.start()
    for tag in ("one", "two"):
        await lab.perform(worker, tag)
    await lab.stage.until(
        "two runs, of whichever handler",
        lambda: lab.ends() + len(lab.history.named("second_ran")) >= 2,
    )
    lab.equal("runs of the second handler", 0, len(lab.history.named("second_ran")))
    await lab.fence(worker)
    lab.check("each_once")


async def test_REG_4_registering_while_it_runs(lab: Lab) -> None:
    worker = lab.worker(puppets=False)
    await worker.start()
    worker.register("act", lab.troupe(worker).act)
    await lab.perform(worker, "first")
    await lab.until_ended(1)
    worker.register("act-plain", lab.troupe(worker).act_plain)
    await lab.perform(worker, "second", handler="act-plain")
    await lab.until_ended(2)
    lab.check("each_once")
    lab.check("ended_as", tag="first", expected=["returned"])
    lab.check("ended_as", tag="second", expected=["returned"])


@pytest.mark.parametrize("kind", ["act", "act_plain"])
async def test_REG_4_with_all_that_goes_with_it(lab: Lab, kind: str) -> None:
    """As it is registered: `def` or `async def`, and with its own options."""
    worker = lab.worker()
    await worker.start()
    worker.register("late", getattr(lab.troupe(worker), kind), max_attempts=2, backoff=SOON)
    await lab.perform(worker, "good", handler="late")
    await lab.perform(worker, "bad", handler="late", do={"*": [["raise", "as it should"]]})
    await lab.until_ended(2, "bad")
    for letter in await lab.until_dead(worker, 1):
        lab.equal("the attempts of the dead letter", 2, letter.attempts)
    # Later than any retry.
    await lab.perform(worker, "past it", handler="late", delay=0.3)
    await lab.until_ended(1, "past it")
    lab.check("attempts", tag="good", expected=[1])
    lab.check("attempts", tag="bad", expected=[1, 2])


async def test_REG_5_a_def_handler_that_blocks_stops_no_other(lab: Lab) -> None:
    worker = lab.worker(concurrency=3)
    await worker.start()
    await lab.perform(worker, "blocks", handler="act-plain", do={"*": [["gate", "g"]]})
    await lab.until_started(1, "blocks")
    await lab.perform(worker, "async")
    await lab.perform(worker, "plain", handler="act-plain")
    await lab.until_ended(1, "async")
    await lab.until_ended(1, "plain")
    lab.equal("ends of the one that blocks", 0, lab.ends("blocks"))
    lab.stage.open("g")
    await lab.until_ended(1, "blocks")
    for tag in ("blocks", "async", "plain"):
        lab.check("ended_as", tag=tag, expected=["returned"])
    lab.check("each_once")
