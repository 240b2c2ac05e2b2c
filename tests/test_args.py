"""ARGS: what arrives is what was performed."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import datetime
import decimal
import enum
import json
import math
import struct
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import offload
from offload import InvalidJobError, Job, JobTooLargeError
from offload.args import encode_args
from offload.envelope import decode, encode

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
    max_leaves=30,
)
ARGS = st.dictionaries(TEXT, VALUES)


def exact(value: Any) -> Any:
    """The value with its types, the bits of its floats, and the order of its keys."""
    if isinstance(value, dict):
        return ("dict", [(key, exact(item)) for key, item in value.items()])
    if isinstance(value, list):
        return ("list", [exact(item) for item in value])
    if isinstance(value, float):
        return ("float", struct.pack(">d", value))
    return (type(value).__name__, value)


@given(ARGS)
def test_args_1_through_the_wire(args):
    body = encode("id", "handler", 1, encode_args(args))
    assert exact(decode(body).args) == exact(args)


@given(ARGS)
def test_args_5_the_size_is_that_of_compact_json(args):
    compact = json.dumps(args, ensure_ascii=False, separators=(",", ":"))
    # Python and others may write one float in different ways of the same length or less.
    if not any(isinstance(v, float) for v in _leaves(args)):
        assert len(encode_args(args)) == len(compact.encode())


def _leaves(value: Any) -> Any:
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _leaves(item)
    else:
        yield value


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(ARGS, min_size=1, max_size=5))
def test_args_1_through_a_backend(tmp_path_factory, kind_url, batch):
    async def main() -> list[Any]:
        seen: dict[int, Any] = {}
        done = asyncio.Event()
        worker = offload.connect(kind_url(tmp_path_factory))

        async def note(args: Any) -> None:
            seen[args["n"]] = args["args"]
            if len(seen) == len(batch):
                done.set()

        worker.register("note", note)
        async with worker:
            for n, args in enumerate(batch):
                await worker.perform(Job("note", {"n": n, "args": args}))
            await asyncio.wait_for(done.wait(), 20)
        return [seen[n] for n in range(len(batch))]

    assert exact(asyncio.run(main())) == exact(batch)


@pytest.fixture(params=["simple", "sqlite"])
def kind_url(request):
    if request.param == "simple":
        return lambda _factory: "simple://"
    return lambda factory: f"sqlite:///{factory.mktemp('args')}/jobs.db"


async def test_args_2_captured_at_the_call(connect, url, recorder):
    worker = connect(url)
    worker.register("note", recorder.note)
    args = {"list": [1], "dict": {"a": 1}}
    await worker.perform(Job("note", args))
    args["list"].append(2)
    args["dict"]["a"] = 2
    await worker.start()
    await recorder.until_started(1)
    assert recorder.args == [{"list": [1], "dict": {"a": 1}}]


async def test_args_3_a_handlers_change_is_seen_by_nobody(connect, url, recorder):
    worker = connect(url)
    seen = []

    async def spoil(args):
        seen.append(json.dumps(args))
        args["list"].append("spoilt")
        args["new"] = 1
        if offload.current_job().attempt == 1:
            raise ValueError
        await recorder.note(args)

    worker.register("spoil", spoil, backoff=offload.constant(datetime.timedelta(0)))
    await worker.start()
    original = {"list": [1]}
    await worker.perform(Job("spoil", original))
    await recorder.until_started(1)
    assert seen == ['{"list": [1]}'] * 2
    assert original == {"list": [1]}


class Colour(enum.IntEnum):
    RED = 1


class Text(str):
    __slots__ = ()


@dataclasses.dataclass
class Point:
    x: int = 1


def nested(depth: int) -> Any:
    value: Any = {}
    for _ in range(depth - 1):
        value = {"a": value}
    return value


def cycle() -> Any:
    args: Any = {"a": []}
    args["a"].append(args)
    return args


class Unrepresentable:
    def __repr__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"user": [1, 2, b"x"]}, r"args\.user\[2\]: bytes"),
        ({"a": {"b c": (1,)}}, r"args\.a\['b c'\]: tuple"),
        ({1: 2}, r"args: a key must be str, not int"),
        ({"a": {True: 1}}, r"args\.a: a key must be str, not bool"),
        ({"a": {None: 1}}, r"args\.a: a key must be str"),
        ({"a": math.nan}, r"args\.a: a float must be finite, not nan"),
        ({"a": [math.inf]}, r"args\.a\[0\]: a float must be finite"),
        ({"a": -math.inf}, r"args\.a: .*-inf"),
        ({"a": {1, 2}}, r"args\.a: set"),
        ({"a": datetime.datetime.now(datetime.UTC)}, r"args\.a: datetime"),
        ({"a": decimal.Decimal(1)}, r"args\.a: Decimal"),
        ({"a": 2**64}, r"args\.a: an int must lie in"),
        ({"a": -(2**63) - 1}, r"args\.a: an int must lie in"),
        ({"a": 10**5000}, r"args\.a: an int must lie in"),
        ({"a": "\ud800"}, r"args\.a: text must not hold a lone surrogate"),
        ({"\udfff": 1}, r"args: a key must not hold a lone surrogate"),
        ({"é": ()}, r"args\.é: tuple"),
        ({"a": Colour.RED}, r"args\.a: Colour"),
        ({"a": Text("x")}, r"args\.a: Text"),
        ({"a": collections.OrderedDict()}, r"args\.a: OrderedDict"),
        ({"a": Point()}, r"args\.a: Point"),
        ({"a": Unrepresentable()}, r"args\.a: Unrepresentable"),
        ({"a": (x for x in ())}, r"args\.a: generator"),
        (nested(65), r"a: nested deeper than 64"),
        (cycle(), r"nested deeper than 64 levels, or in a cycle"),
        ([], r"args: must be a dict, not list"),
        (collections.OrderedDict(), r"args: must be a dict, not OrderedDict"),
    ],
    ids=range(27),
)
async def test_args_4_refused_by_path(connect, url, args, message):
    worker = connect(url)
    worker.register("note", print)
    with pytest.raises(InvalidJobError, match=message):
        await worker.perform(Job("note", args))
    assert await worker.counts() == {}


@pytest.mark.parametrize(
    "args",
    [
        nested(64),
        {"a": [-(2**63), 2**64 - 1, 2**53 + 1, -0.0, 5e-324, 1.7976931348623157e308]},
        {"nul": "\0", "bom": "\ufeff", "rtl": "\u202e", "pair": "😀", "": {}},
        {"b": 1, "a": [], "c": {}, "bool": [True, 1, False, 0, None]},
    ],
    ids=["depth", "numbers", "text", "order"],
)
async def test_args_1_edges(connect, url, recorder, args):
    worker = connect(url)
    worker.register("note", recorder.note)
    await worker.start()
    await worker.perform(Job("note", args))
    await recorder.until_started(1)
    assert exact(recorder.args[0]) == exact(args)


async def test_args_5_the_largest_job_passes_and_one_byte_more_does_not(connect, url, recorder):
    worker = connect(url)
    worker.register("note", recorder.note)
    room = worker.limits.max_job_bytes - len('{"a":""}')
    await worker.start()
    with pytest.raises(JobTooLargeError, match=str(worker.limits.max_job_bytes)):
        await worker.perform(Job("note", {"a": "x" * (room + 1)}))
    assert await worker.counts() == {}
    await worker.perform(Job("note", {"a": "x" * room}))
    await recorder.until_started(1)
    assert len(recorder.args[0]["a"]) == room
