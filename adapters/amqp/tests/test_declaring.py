"""`offload amqp topology`, and workers that declare nothing themselves."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from datetime import timedelta

import pytest
from click.testing import CliRunner
from support import DEADLINE, Log

import offload_amqp.consumer
from offload import BackendError, BackendUnavailableError, Job, constant
from offload.cli import main
from offload_amqp.names import LEVELS


async def run(*arguments):
    """Run a command in this process, which has an event loop already."""
    return await asyncio.to_thread(CliRunner().invoke, main, ["amqp", "topology", *arguments])


@pytest.fixture(scope="session")
def limited(broker):
    """The URL of a user who may configure nothing, neither in `/` nor in the vhost `other`."""
    broker.add_vhost("other")
    broker.add_user("reader", "lovelace")
    for vhost in ("/", "other"):
        broker.permit("reader", vhost, configure="^$")
    return broker.url.replace("//", "//reader:lovelace@")


async def declare(url, space):
    told = await run(f"{url}?namespace={space}", "--declare")
    assert told.exit_code == 0, told.output


async def import_definitions(broker, url, space):
    told = await run(f"{url}?namespace={space}", "--json")
    broker.ask("POST", "definitions", json.loads(told.stdout))


# -- the command -----------------------------------------------------------------


async def test_it_prints_everything_and_connects_to_nothing():
    told = await run("amqp://ada:lovelace@nowhere.invalid/a%2Fb?queues=one,two&namespace=ns")
    assert told.exit_code == 0
    assert "lovelace" not in told.output
    lines = [line.strip() for line in told.output.splitlines()]
    assert lines[0] == "vhost a/b"
    for name in ("ns.q.one", "ns.q.two", "ns.dead.two", "ns.soon.one", "ns.delay.27", "ns.due"):
        assert name in lines
    assert lines.count("ns.due") == 1
    assert "x-message-ttl: 134217728000" in lines
    assert "ns.due --#.one--> queue ns.soon.one" in lines
    assert "ns.delay.0 --" + "*." * 27 + "0.#--> exchange ns.due" in lines


async def test_it_prints_definitions():
    told = await run("amqp://host?queues=a&namespace=ns&queue_type=classic", "--json")
    found = json.loads(told.stdout)
    assert found.keys() == {"exchanges", "queues", "bindings"}
    assert {each["vhost"] for part in found.values() for each in part} == {"/"}
    assert len(found["exchanges"]) == 1 + LEVELS
    assert len(found["queues"]) == 3 + LEVELS
    assert len(found["bindings"]) == 1 + 2 * LEVELS
    assert {queue["arguments"]["x-queue-type"] for queue in found["queues"]} == {"classic"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["redis://u:lovelace@host"], "redis:// is not the scheme of a RabbitMQ broker"),
        (["amqp://u:lovelace@host?que=a"], "has no option 'que'"),
        (["amqp://u:lovelace@host?declare=no"], "give one of true, false"),
        (["lovelace"], "the config string must have the form"),
        (["amqp://u:lovelace@host", "--json", "--declare"], "exclude each other"),
    ],
)
async def test_what_is_wrong_is_told(arguments, message):
    told = await run(*arguments)
    assert told.exit_code == 2
    assert message in told.output
    assert "lovelace" not in told.output
    assert "Traceback" not in told.output


async def test_who_may_not_declare_is_told(limited, space):
    told = await run(f"{limited}?namespace={space}", "--declare")
    assert told.exit_code == 1
    assert "the user lacks a permission" in told.output
    assert "lovelace" not in told.output


# -- what is declared that way serves a worker without rights ----------------------------


@pytest.fixture(params=["declared", "imported", "declared again"])
async def prepared(request, broker, limited, space):
    """The URL, when an operator has declared what is needed for it, this way or that."""
    if request.param == "imported":
        await import_definitions(broker, f"{limited}/other", space)
        return f"{limited}/other"
    for _ in range(1 + (request.param == "declared again")):
        await declare(broker.url, space)
    return limited


async def test_a_worker_that_may_configure_nothing(make, prepared, recorder):
    """It performs, now and later, runs, retries, buries, and what is buried is requeued."""
    worker = make(prepared, declare="false")
    log = Log()
    worker.observe(log)
    worker.register("note", recorder.note)
    worker.register("fail", recorder.failing(1), backoff=constant(timedelta(seconds=0.1)))
    worker.register("late", recorder.failing(1), backoff=constant(timedelta(seconds=3)))
    worker.register("bury", recorder.failing(1), max_attempts=1)
    await worker.start()
    asked = time.time()
    delays = {await worker.perform_in(Job("note"), delay): delay for delay in (0.2, 2.5, 4.5)}
    await worker.perform_in(Job("note"), timedelta(days=3000))
    for handler in ("note", "fail", "late"):
        await worker.perform(Job(handler))
    dead = await worker.perform(Job("bury"))
    await log.until("job_dead")
    letters = worker.dead_letters
    assert [letter.id for letter in await letters.list()] == [dead]
    assert (await worker.counts())["default"].dead == 1
    assert await letters.requeue([dead]) == [dead]
    await log.until("job_dead", 2)
    assert await letters.discard([dead]) == [dead]
    assert await letters.list() == []
    await recorder.until_started(10)
    for job_id, delay in delays.items():
        assert asked + delay - 0.03 <= recorder.started_at[job_id]


async def test_the_definitions_are_what_a_worker_declares(make, broker, space):
    """One with rights refuses nothing that was imported, and adds nothing to it."""
    await import_definitions(broker, broker.url, space)

    def there():
        found = map(json.dumps, broker.ask("GET", "bindings"))
        return sorted(each for each in found if f"{space}." in each)

    imported = there()
    assert len(imported) > 2 * LEVELS
    await make().perform_in(Job("note"), timedelta(days=3000))
    assert there() == imported


# -- what is missing ---------------------------------------------------------------------


@pytest.mark.parametrize("what", ["start", "perform", "perform_in"])
async def test_what_is_missing_is_named(make, limited, space, wire, what):
    worker = make(wire.url.replace("//", "//reader:lovelace@"), declare="false")
    calls = {
        "start": worker.start,
        "perform": lambda: worker.perform(Job("note")),
        "perform_in": lambda: worker.perform_in(Job("note"), 60),
    }
    for _ in range(20):
        with pytest.raises(BackendError, match="offload amqp topology") as caught:
            await calls[what]()
        assert not isinstance(caught.value, BackendUnavailableError)
        assert f"no exchange '{space}.due' in vhost '/'" in str(caught.value)
        assert "lovelace" not in str(caught.value)
    if what != "start":
        assert wire.accepted == 1  # the connection is kept


@pytest.mark.parametrize("name", ["q.default", "soon.default", "dead.default", "delay.1"])
async def test_one_queue_is_missing(make, broker, limited, stranger, space, name, recorder):
    """Once it is declared, the same worker goes on."""
    await declare(broker.url, space)
    await stranger.delete(name)
    worker = make(limited, declare="false")
    for _ in range(2):
        with pytest.raises(BackendError, match=rf"no queue '{space}.{name}'"):
            await worker.perform_in(Job("note"), 3.1)
    await declare(broker.url, space)
    worker.register("note", recorder.note)
    await worker.start()
    job_id = await worker.perform_in(Job("note"), 3.1)
    await recorder.until(lambda: job_id in recorder.started_at)


async def test_a_queue_is_deleted_under_a_worker(
    make, broker, limited, stranger, space, recorder, caplog, monkeypatch
):
    """It looks now and then, and goes on when the queue is there again."""
    monkeypatch.setattr(offload_amqp.consumer, "MISSING_PAUSE", 0.5)
    caplog.set_level(logging.DEBUG, "offload")
    await declare(broker.url, space)
    worker = make(limited, declare="false")
    worker.register("note", recorder.note)
    await worker.start()
    await worker.perform(Job("note"))
    await recorder.until_started(1)
    began = time.monotonic()
    await stranger.delete("q.default")
    async with asyncio.timeout(DEADLINE):
        while caplog.text.count("no jobs can be consumed now") < 3:
            await asyncio.sleep(0.02)
    assert caplog.text.count("no jobs can be consumed now") <= 2 + (time.monotonic() - began) / 0.5
    assert f"no queue '{space}.q.default'" in caplog.text
    with pytest.raises(BackendError, match=rf"no queue '{space}.q.default'"):
        await worker.perform(Job("note"))
    await declare(broker.url, space)
    await worker.perform(Job("note"))
    await recorder.until_started(2)
