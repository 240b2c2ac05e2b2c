"""`counts` and the looks at dead letters: what AMQP can tell is told, and nothing is made."""

from __future__ import annotations

import pytest

from offload import Job, QueueCounts


def counted(waiting=0, dead=0):
    return QueueCounts(waiting=waiting, scheduled=None, running=None, dead=dead)


async def test_a_look_makes_nothing(make, broker, space):
    worker = make(queues="a,b")
    assert await worker.counts() == {}
    assert list(await worker.dead_letters.list()) == []
    assert await worker.dead_letters.show("nobody") is None
    assert await worker.dead_letters.requeue(["nobody"]) == []
    assert await worker.dead_letters.discard(["nobody"]) == []
    for what in ("queues", "exchanges"):
        names = [each["name"] for each in broker.ask("GET", f"{what}?disable_stats=true")]
        assert not [name for name in names if space in name]


async def test_what_waits_is_counted_and_what_can_t_be_known_is_none(make):
    worker = make(queues="a,b")
    await worker.perform_many([Job("note", queue="a")] * 3)
    await worker.perform_in(Job("note", queue="a"), 1.5)
    await worker.perform_in(Job("note", queue="a"), 3600)
    assert await worker.counts() == {"a": counted(waiting=3)}


async def test_a_queue_is_counted_while_it_may_hold_a_job(make, recorder):
    """Of what a worker has, the broker tells nothing."""
    worker = make(concurrency=1)
    worker.register("hold", recorder.hold)
    await worker.start()
    await worker.perform(Job("hold"))
    await recorder.until_started(1)
    assert await make().counts() == {"default": counted()}
    recorder.gate.set()


async def test_dead_letters_are_counted(make, stranger):
    worker = make()
    await worker.perform(Job("note"))
    await stranger.publish("dead.default", b"{}")
    await stranger.publish("dead.default", b"{}")
    await stranger.until("dead.default", ready=2)
    assert await worker.counts() == {"default": counted(waiting=1, dead=2)}


async def test_the_queues_that_this_worker_has_performed_into(make, stranger):
    """Others, that no option names, can't be known: AMQP has no list of queues."""
    worker = make(queues="a")
    await make().perform(Job("note", queue="theirs"))
    await worker.perform(Job("note", queue="ours"))
    assert await worker.counts() == {"ours": counted(waiting=1)}
    await stranger.until("q.theirs", ready=1)


async def test_a_missing_queue_among_others(make, stranger):
    """The broker closes the channel on which it is asked for; the next answers all the same."""
    worker = make(queues="a,b,c")
    for queue in "abc":
        await worker.perform(Job("note", queue=queue))
    await stranger.delete("q.b")
    await stranger.delete("dead.c")
    assert await worker.counts() == {"a": counted(waiting=1), "c": counted(waiting=1)}


@pytest.mark.parametrize("taken", [0, 2])
async def test_a_look_at_dead_letters_passes_over_queues_that_are_not_there(make, stranger, taken):
    worker = make(queues="a,b")
    await worker.perform(Job("note", queue="b"))
    for _ in range(taken):
        await stranger.publish("dead.b", b"{}", message_id="x")
    await stranger.until("dead.b", ready=taken)
    assert len(await worker.dead_letters.list()) == taken


async def test_it_can_be_looked_at_after_the_stop(make):
    worker = make()
    worker.register("note", lambda args: None)
    await worker.perform_in(Job("note"), 3600)
    await worker.stop()
    assert await worker.counts() == {"default": counted()}
