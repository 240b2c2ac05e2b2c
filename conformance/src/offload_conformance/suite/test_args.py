"""ARGS: what arrives is what was performed, or it is refused by its path."""

from __future__ import annotations

import asyncio
import collections
import datetime
import decimal
import enum
import json
import math
from collections.abc import Awaitable
from typing import Any

import pytest

import offload
from offload import InvalidJobError, Job, JobTooLargeError, Worker
from offload_conformance.lab import SOON, Lab, now
from offload_conformance.puppets import spell

pytestmark = pytest.mark.asyncio


def nested(depth: int) -> dict[str, Any]:
    """Dicts and lists by turns; the outermost counts as the first level."""
    value: Any = {} if depth % 2 else []
    for level in range(depth - 1, 0, -1):
        value = {"a": value} if level % 2 else [value]
    return dict(value)


EXACTLY: dict[str, dict[str, Any]] = {
    "nothing": {},
    "the empty": {"list": [], "dict": {}, "text": "", "": None, "in": [[], {}, [[]], [{}]]},
    "scalars": {"n": [None, True, False, 1, 0, 1.0, 0.0, "1", "", "null", "true"]},
    "ints": {
        "n": [
            *(-(2**63), -(2**63) + 1, 2**63 - 1, 2**63, 2**64 - 1),
            *(-(2**53) - 1, 2**53, 2**53 + 1, 10**18 + 1, -1, 0),
        ]
    },
    "floats": {
        "n": [
            *(-0.0, 0.0, 0.1, 0.1 + 0.2, 1 / 3, 2.0**53, 1e16, 1e22, 1e23, -1e-7, 123456789.0),
            *(5e-324, 2.2250738585072014e-308, 1.7976931348623157e308, 9007199254740993.0),
        ]
    },
    "text": {
        "nul": "a\0b\0",
        "controls": "".join(map(chr, range(32))) + "\x7f\x80\x9f",
        "quotes": "\"'\\/\b\f\n\r\t</script>%s{}",
        "composed": "\u00e9 and e\u0301, \u212b and \u00c5, \ufb01",
        "invisible": "\ufeff\u200b\u202e\u2028\u2029\u00a0 ",
        "astral": "\U0001f600\U0010ffff\ufffd\uffff\ufffe",
        "scripts": "ß İ ẞ 漢字 \u05e9\u05dc\u05d5\u05dd नमस्ते",
        "number": "1e5",
        "date": "2025-01-01T00:00:00Z",
    },
    "keys": {"z": 1, "a": {"c": 1, "b": 2, "\0": 3, "é": 4, "10": 5, "9": 6}, " ": [], "A": 0},
    "depth": nested(64),
    "width": {str(n): n for n in range(300)},
}


async def send(lab: Lab, worker: Worker, args: dict[str, Any], handler: str = "note") -> None:
    """Perform a job with these args, and record exactly what they are."""
    spelt = spell(args)
    job_id = await lab.call("perform", worker.perform(Job(handler, args)))
    lab.history.add("performed", id=job_id, spelt=spelt)


async def until_received(lab: Lab, count: int) -> None:
    """Return when a puppet has told so often what it got."""
    await lab.stage.until(
        f"args to arrive {count} times", lambda: len(lab.history.named("received")) >= count
    )


def noting_worker(lab: Lab) -> Worker:
    """A worker whose handler `note` tells exactly what it gets."""
    worker = lab.worker()
    worker.register("note", lab.troupe(worker).note)
    return worker


async def test_ARGS_1_equal_and_of_the_same_types(lab: Lab) -> None:
    worker = noting_worker(lab)
    await worker.start()
    for args in EXACTLY.values():
        await send(lab, worker, args)
    await until_received(lab, len(EXACTLY))
    lab.check("arrived")


async def test_ARGS_1_whichever_way_they_are_performed(lab: Lab) -> None:
    worker = noting_worker(lab)
    await worker.start()
    args = {"n": [2**64 - 1, -0.0, [], {}, "\0é😀"], "b": 1, "a": 1.0}
    job, spelt = Job("note", args), spell(args)
    ids = [
        await lab.call("perform_in", worker.perform_in(job, 0.001)),
        await lab.call("perform_at", worker.perform_at(job, now())),
        *await lab.call("perform_many", worker.perform_many([job, job])),
    ]
    for job_id in ids:
        lab.history.add("performed", id=job_id, spelt=spelt)
    await until_received(lab, len(ids))
    lab.check("arrived")


async def test_ARGS_2_captured_at_the_call(lab: Lab) -> None:
    worker = noting_worker(lab)
    args: dict[str, Any] = {"dict": {"a": 1}, "list": [1], "text": "as it was"}
    await send(lab, worker, args)
    change(args)
    await send(lab, worker, args)
    change(args)
    await worker.start()
    await send(lab, worker, args)
    change(args)
    await until_received(lab, 3)
    lab.check("arrived")


def change(args: dict[str, Any]) -> None:
    """Change args everywhere, as a caller may who uses them again."""
    args["list"].append(args["dict"]["a"])
    args["dict"]["a"] += 1
    args["text"] = "changed"


async def test_ARGS_2_even_while_the_call_is_under_way(lab: Lab) -> None:
    worker = noting_worker(lab)
    await worker.start()
    args: dict[str, Any] = {"dict": {"a": 1}, "list": [1], "text": "as it was"}
    for _ in range(3):
        call = asyncio.create_task(send(lab, worker, args))
        await asyncio.sleep(0)  # the call has begun, and may wait for its backend
        change(args)
        await call
    await until_received(lab, 3)
    lab.check("arrived")


@pytest.mark.parametrize("way", ["perform_in", "perform_at", "perform_many"])
async def test_ARGS_2_however_it_is_performed(lab: Lab, way: str) -> None:
    worker = noting_worker(lab)
    await worker.start()
    args: dict[str, Any] = {"dict": {"a": 1}, "list": [1], "text": "as it was"}
    job, spelt = Job("note", args), spell(args)
    if way == "perform_many":
        ids = await lab.call(way, worker.perform_many([job, job]))
    elif way == "perform_in":
        ids = [await lab.call(way, worker.perform_in(job, 0.05))]
    else:
        later = now() + datetime.timedelta(seconds=0.05)
        ids = [await lab.call(way, worker.perform_at(job, later))]
    change(args)
    for job_id in ids:
        lab.history.add("performed", id=job_id, spelt=spelt)
    await until_received(lab, len(ids))
    lab.check("arrived")


async def test_ARGS_3_a_handlers_change_is_seen_by_nobody(lab: Lab) -> None:
    worker = noting_worker(lab)
    note = lab.troupe(worker).note

    async def spoil(args: offload.Args) -> None:
        await note(args)
        args["list"].append("spoilt")
        args["dict"]["deep"]["a"] = "spoilt"
        args["new"] = "spoilt"
        if offload.current_job().attempt == 1:
            raise ValueError("spoil, and try again")

    worker.register("spoil", spoil, backoff=SOON)
    await worker.start()
    args = {"dict": {"deep": {"a": [1]}}, "list": [1]}
    before = spell(args)
    await send(lab, worker, args, "spoil")
    await send(lab, worker, args, "spoil")
    await until_received(lab, 4)
    await send(lab, worker, args)
    await until_received(lab, 5)
    lab.equal("what the caller has", before, spell(args))
    lab.check("arrived")


class Colour(enum.IntEnum):
    """An int that isn't just an int."""

    RED = 1


class Text(str):
    """A str that isn't just a str."""

    __slots__ = ()


class Mapping(dict[str, int]):
    """A dict that isn't just a dict."""


def cycle(of: str) -> dict[str, Any]:
    """A dict that is inside itself, by way of a list or not."""
    args: dict[str, Any] = {}
    args["a"] = [args] if of == "list" else args
    return args


REFUSED: dict[str, tuple[Any, str]] = {
    "bytes, in a list": ({"user": [1, 2, b"x"]}, "args.user[2]"),
    "a tuple": ({"user": {"name": (1, 2)}}, "args.user.name"),
    "an empty tuple": ({"user": ()}, "args.user"),
    "a set": ({"a": {1}}, "args.a"),
    "a bytearray": ({"a": bytearray(1)}, "args.a"),
    "a datetime": ({"a": {"at": datetime.datetime(2025, 1, 1, tzinfo=datetime.UTC)}}, "args.a.at"),
    "a date": ({"a": [[], [datetime.date(2025, 1, 1)]]}, "args.a[1][0]"),
    "a timedelta": ({"a": datetime.timedelta(1)}, "args.a"),
    "a Decimal": ({"a": decimal.Decimal(1)}, "args.a"),
    "an object": ({"a": object()}, "args.a"),
    "NaN": ({"a": {"b": [0.0, math.nan]}}, "args.a.b[1]"),
    "infinity": ({"a": math.inf}, "args.a"),
    "minus infinity": ({"a": [-math.inf]}, "args.a[0]"),
    "2**64": ({"a": 2**64}, "args.a"),
    "-2**63 - 1": ({"a": [-(2**63) - 1]}, "args.a[0]"),
    "an int of 5,000 digits": ({"a": 10**5000}, "args.a"),
    "an int as a key": ({"a": {1: 2}}, "args.a"),
    "a bool as a key": ({"a": [{True: 2}]}, "args.a[0]"),
    "None as a key": ({None: 2}, "args"),
    "a subclass of str as a key": ({"a": {Text("k"): 2}}, "args.a"),
    "a lone surrogate": ({"a": ["fine", "\ud83d"]}, "args.a[1]"),
    "a pair of surrogates, apart": ({"a": "\ud83d\ude00"}, "args.a"),
    "a lone surrogate in a key": ({"a": {"\udfff": 1}}, "args.a"),
    "an IntEnum": ({"a": Colour.RED}, "args.a"),
    "a subclass of str": ({"a": Text("x")}, "args.a"),
    "a subclass of dict": ({"a": Mapping(a=1)}, "args.a"),
    "an OrderedDict": ({"a": [collections.OrderedDict()]}, "args.a[0]"),
    "a cycle of dicts": (cycle("dict"), "args.a"),
    "a cycle by way of a list": (cycle("list"), "args.a[0]"),
    "a depth of 65": (nested(65), "args.a[0].a"),
    "a list for args": ([], "args"),
    "None for args": (None, "args"),
    "a subclass of dict for args": (Mapping(), "args"),
}


async def test_ARGS_4_refused_by_path(lab: Lab) -> None:
    worker = lab.worker()
    await worker.start()
    for what, (args, path) in REFUSED.items():
        name = f"perform {what}"
        await lab.refused(InvalidJobError, name, worker.perform(Job("act", args)))
        lab.check("refusal_names", call=name, part=path)
    await lab.fence(worker)
    lab.check("each_once")


async def test_ARGS_4_whichever_way_they_are_performed(lab: Lab) -> None:
    worker = lab.worker()
    await worker.start()
    job = Job("act", {"user": [1, 2, (3,)]})
    calls: dict[str, Awaitable[object]] = {
        "perform_in": worker.perform_in(job, 0.001),
        "perform_at": worker.perform_at(job, now()),
        "perform_many": worker.perform_many([job]),
    }
    for name, call in calls.items():
        await lab.refused(InvalidJobError, name, call)
        lab.check("refusal_names", call=name, part="args.user[2]")
    await lab.perform(worker, "later", delay=0.005)
    await lab.until_ended(1, "later")
    lab.check("each_once")


def sized(size: int, kind: str) -> dict[str, Any]:
    """Args that are of exactly so many bytes as compact JSON in UTF-8."""
    room = size - len('{"a":[""],"b":""}')
    filling = {"two_bytes": "é", "four_bytes": "😀"}.get(kind, "x")
    if kind == "many":  # with many commas and colons: whoever puts blanks after them is off
        many = min(500, room // 4)
        return {"a": [""] + [1] * many, "b": "x" * (room - 2 * many)}
    head = '"\\\n' * 10 if kind == "escaped" and room > 60 else ""
    width = len(filling.encode())
    count, rest = divmod(room - 2 * len(head), width)
    return {"a": [head + filling * count], "b": "x" * rest}


@pytest.mark.parametrize("kind", ["ascii", "two_bytes", "four_bytes", "many", "escaped"])
async def test_ARGS_5_the_largest_passes_and_one_byte_more_does_not(lab: Lab, kind: str) -> None:
    worker = noting_worker(lab)
    await worker.start()
    limit = lab.limits.max_job_bytes
    too_large = sized(limit + 1, kind)
    await lab.refused(
        JobTooLargeError, "perform a byte more", worker.perform(Job("act", too_large))
    )
    largest = sized(limit, kind)
    await send(lab, worker, largest)
    await until_received(lab, 1)
    compact = json.dumps(largest, ensure_ascii=False, separators=(",", ":"))
    size = len(compact.encode())
    lab.check("at_least", what="bytes that arrived", limit=limit, actual=size)
    lab.check("arrived")
    await lab.fence(worker)
    lab.check("each_once")
