"""A verdict fits into the frames of whatever broker, and none holds up another."""

from __future__ import annotations

from datetime import timedelta

import pytest
from support import Log

import offload
from offload import Job, constant

pytestmark = pytest.mark.xdist_group("narrow broker")  # one process, so that it starts once

SOON = constant(timedelta(milliseconds=5))


@pytest.fixture(scope="module")
def narrow_broker(run_broker):
    """A broker with the smallest frames that AMQP allows."""
    with run_broker("frame_max = 4096\n") as broker:
        yield broker


@pytest.mark.parametrize("letter", ["x", "\N{GRINNING FACE}", "é"], ids=["ascii", "four", "two"])
async def test_a_long_error_in_a_short_frame(make_at, narrow_broker, recorder, letter):
    worker = make_at(narrow_broker.url)
    log = Log()
    worker.observe(log)

    async def fail(args):
        raise ValueError(letter * 20_000)

    worker.register("fail", fail, max_attempts=2, backoff=SOON)
    worker.register("note", recorder.note)
    await worker.start()
    await worker.perform(Job("fail"))
    await worker.perform(Job("note"))
    await log.until("job_dead")
    await log.until("job_succeeded")
    (found,) = await worker.dead_letters.list()
    assert found.error.startswith(f"ValueError: {letter * 100}")
    assert found.traceback.endswith(letter * 100 + "\n")
    assert found.attempts == 2


async def test_a_driver_is_given_more_text_than_a_frame_holds(broker, space):
    """Characters are not bytes: 16,000 of them may be 64,000."""
    worker = offload.connect(f"{broker.url}?namespace={space}")
    driver = worker._driver
    entry = offload.Entry("j1", "default", b"{}")
    await driver.open()
    await driver.enqueue([entry])
    subscription = await driver.subscribe(["default"])
    await subscription.wait(5)
    (delivery,) = (await subscription.fetch(1)).deliveries
    text = "\N{GRINNING FACE}" * 40_000
    failure = offload.Failure(text, text + "\ud800", 1)
    dead = offload.Settlement(delivery, offload.Verdict.DEAD_LETTER, failure=failure)
    assert not await subscription.settle([dead])
    (letter,) = await driver.list_dead(5, None)
    assert letter.failure.error in text
    assert letter.failure.traceback.endswith("\\ud800")
    await subscription.close()
    await driver.close()


async def test_a_retry_beyond_the_longest_delay_is_the_longest(make, recorder, stranger):
    worker = make()
    worker.register("later", recorder.failing(1, lambda: offload.Retry(after=timedelta(days=9000))))
    worker.register("note", recorder.note)
    await worker.start()
    await worker.perform(Job("later"))
    await worker.perform(Job("note"))
    await recorder.until_started(2)
    await stranger.until("delay.27", ready=1)
    await stranger.until("q.default", ready=0)
