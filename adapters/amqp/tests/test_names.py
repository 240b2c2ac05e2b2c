"""CONF-3: names that no broker takes are refused by `connect`; all others work."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from support import Log

import offload
from offload import ConfigError, Job
from offload.job import QUEUE_PATTERN
from offload_amqp.commands import amqp
from offload_amqp.names import LEVELS, Names, ladder_key, level_keys
from offload_amqp.topology import Binding, Exchange, Topology

NOWHERE = "amqp://127.0.0.1:1"
"""Nothing listens there: whoever connects fails otherwise."""

REFUSED = {
    "the broker's own prefix": "?namespace=amq",
    "a namespace of 119 characters": "?namespace=" + 119 * "n",
    "a vhost of 128 characters": "/" + 128 * "v",
    "a vhost of 200 characters": "/" + 200 * "v",
    "a vhost of 256 bytes": "/" + quote(64 * "\U0001f600"),
    "a vhost that is no text": "/v\udcff",
    "a user with a NUL": "us%00er:secret@",
    "a user that is no text": "us\udcffer:secret@",
    "a password with a NUL": "user:sec%00ret@",
    "a password that is no text": "user:sec\udcffret@",
}


def address(odd: str) -> str:
    return f"amqp://{odd}127.0.0.1:1" if odd.endswith("@") else NOWHERE + odd


@pytest.mark.parametrize("odd", REFUSED.values(), ids=REFUSED)
def test_conf_3_refused_before_it_connects(odd):
    with pytest.raises(ConfigError) as raised:
        offload.connect(address(odd))
    assert "secret" not in str(raised.value)
    assert "ret" not in str(raised.value)


@pytest.mark.parametrize("odd", ["?namespace=amq", "/" + 128 * "v"])
@pytest.mark.parametrize("more", [[], ["--json"], ["--declare"]])
def test_conf_3_the_command_refuses_them_too(odd, more):
    told = CliRunner().invoke(amqp, ["topology", NOWHERE + odd, *more])
    assert isinstance(told.exception, ConfigError)


@pytest.mark.parametrize(
    "odd", ["?namespace=amqp", "?namespace=AMQ", "?namespace=amq-", "?queues=amq", "/amq"]
)
def test_names_that_only_look_reserved(odd):
    offload.connect(NOWHERE + odd)


names = st.from_regex(QUEUE_PATTERN, fullmatch=True) | st.sampled_from(["a" * 118, "_", "-"])


@given(names.filter(lambda name: name != "amq" and len(name) <= 118), names)
def test_all_other_names_fit_in_a_short_string(namespace, queue):
    topology = Topology(Names(namespace), "quorum")
    parts = topology.needed_for(queue, LEVELS - 1)
    texts = [ladder_key(2**LEVELS - 1, queue), *level_keys(0), Names(namespace).dead(queue)]
    assert all(len(part.name) <= 127 for part in parts if isinstance(part, Exchange))
    for part in parts:
        texts += [part.exchange, part.key, part.to] if isinstance(part, Binding) else [part.name]
    assert all(len(text.encode()) <= 255 for text in texts)
    assert not any(text.startswith("amq.") for text in texts)


@pytest.mark.parametrize(
    "vhost",
    [127 * "v", 63 * "\U0001f600", "a b/c%2Fd:..#\0"],
    ids=["127 characters", "252 bytes", "odd"],
)
@pytest.mark.parametrize("queue_type", ["quorum", "classic"])
async def test_the_longest_names_work(connect, broker, recorder, queue_type, vhost):
    """From a perform to a dead letter that is requeued, and a delay."""
    broker.add_vhost(vhost)
    namespace, queue = queue_type[0] * 118, "q" * 120
    worker = connect(
        f"{broker.url}/{quote(vhost, safe='')}",
        namespace=namespace,
        queues=queue,
        queue_type=queue_type,
        grace="1s",
    )
    log = Log()
    worker.observe(log)
    worker.register("fail", recorder.failing(1), max_attempts=1)
    async with worker:
        await worker.perform_in(Job("fail", queue=queue), 2.5)
        await log.until("job_dead")
        (letter,) = await worker.dead_letters.list()
        assert letter.queue == queue
        assert await worker.dead_letters.list(1, letter.cursor) == []
        assert await worker.dead_letters.requeue_all() == 1
        await log.until("job_dead", 2)
        assert (await worker.counts())[queue].dead == 1
        assert await worker.dead_letters.discard([letter.id]) == [letter.id]
