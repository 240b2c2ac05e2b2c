"""What a test of the kit must have on record before it proves its rule.

The table beside this module is made from certificates of adapters that keep every rule, by
`python -m offload_conformance.evidence CERTIFICATE…`: of each test, what all of them have. So
a record that was made up, of less than the test does, is told from one that was made.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from offload.duration import parse_duration
from offload_conformance.history import Event

TABLE = Path(__file__).with_name("evidence.json")
FEWER = 2
"""By this factor an adapter may have fewer events on record than any that the table knows."""
_BOUNDS = (
    ("limit_ms", "lateness", timedelta(milliseconds=1)),
    ("limit_s", "recovery", timedelta(seconds=1)),
    ("limit", "reconnect", timedelta(seconds=1)),
    ("limit", "max_delay", timedelta(seconds=1)),
    ("limit", "max_job_bytes", None),
)
"""Parameters of checks that may be made of a limit, and its unit, unless it is a number."""
_FOUND = {"actual", "part"}
"""Parameters of checks that are found, and differ from host to host."""

Limits: TypeAlias = Mapping[str, str]
"""As a certificate has them."""
Record: TypeAlias = tuple[list[Event], Limits]


class Evidence(msgspec.Struct, frozen=True):
    """Of one test."""

    rule: str
    events: dict[str, int]
    """By name, the fewest that there were."""
    checks: dict[str, int]
    """The same of the checks, by their names and the parameters that are the same for all."""
    excuses: list[str]
    """Why it proves nothing of some adapters."""
    strangers: bool
    """Whether jobs run that no call has returned: of an earlier release, or of a lost answer."""


@cache
def table() -> Mapping[str, Evidence]:
    """All tests of the kit, by name."""
    return msgspec.json.decode(TABLE.read_bytes(), type=dict[str, Evidence])


def lacks(history: list[Event], limits: Limits, evidence: Evidence) -> Iterator[str]:
    """What a passing record of the test would have, and this one hasn't."""
    events = Counter(event.name for event in history)
    for name, fewest in evidence.events.items():
        if events[name] < max(1, fewest // FEWER):
            yield f"{events[name]} events {name!r} are fewer than the test makes"
    checks = labels_of(history, limits)
    for label, fewest in evidence.checks.items():
        # Of a check that isn't the same for all, there may be as many as the host has things.
        if checks[label] < (fewest if " " in label else 1):
            yield f"the check {label} is missing"
    if not evidence.strangers and (unknown := strangers_in(history)):
        yield f"job {min(unknown)} ran, and was never performed"


def labels_of(history: list[Event], limits: Limits) -> Counter[str]:
    """The checks of a history: by name, with their parameters, and in terms of the limits."""
    labels: Counter[str] = Counter()
    for event in history:
        if event.name != "check":
            continue
        what = {key: value for key, value in event.what.items() if key not in _FOUND}
        name = what.pop("check")
        labels.update({str(name), _label(name, what), *_in_terms_of(limits, str(name), what)})
    return labels


def _label(name: object, what: Mapping[str, object]) -> str:
    return f"{name} {json.dumps(what, sort_keys=True)}"


def _in_terms_of(limits: Limits, name: str, what: Mapping[str, Any]) -> Iterator[str]:
    """The same with a bound as a part of each limit of which it may be made."""
    for key, limit, unit in _BOUNDS:
        stated, bound = limits.get(limit, "-"), what.get(key)
        if stated != "-" and isinstance(bound, int | float):
            whole = int(stated) if unit is None else parse_duration(stated) / unit
            yield _label(name, {**what, key: f"{bound / whole:g} of {limit}"})


def strangers_in(history: list[Event]) -> set[str]:
    """The jobs that ran though no call has told of them."""
    known = {job_id for event in history for job_id in event.what.get("ids", ())}
    ran = {e.what["id"] for e in history if e.name in ("started", "ended") and "id" in e.what}
    return ran - known


def excuse_of(history: list[Event]) -> str | None:
    """Why a test proves nothing of its adapter, if it says so."""
    return next((str(e.what.get("why")) for e in history if e.name == "not_claimed"), None)


def make_table(certificates: Iterable[Mapping[str, Any]]) -> dict[str, Evidence]:
    """The table, from the plain contents of certificates; every test must have passed once."""
    passed: dict[str, list[Record]] = {}
    excuses: dict[str, set[str]] = {}
    rules: dict[str, str] = {}
    for certificate in certificates:
        for rule in certificate["rules"]:
            for test in rule["tests"]:
                name, history = test["name"], msgspec.convert(test["history"], list[Event])
                rules[name] = rule["id"]
                if test["verdict"] == "pass":
                    passed.setdefault(name, []).append((history, certificate["limits"]))
                elif excuse := excuse_of(history):
                    excuses.setdefault(name, set()).add(excuse)
    return {
        name: _evidence_of(rules[name], passed[name], excuses.get(name, set()))
        for name in sorted(rules)
    }


def _evidence_of(rule: str, records: list[Record], excuses: set[str]) -> Evidence:
    return Evidence(
        rule,
        _fewest(Counter(event.name for event in history) for history, _ in records),
        _fewest(labels_of(*each) for each in records),
        sorted(excuses),
        any(strangers_in(history) for history, _ in records),
    )


def _fewest(counts: Iterable[Counter[str]]) -> dict[str, int]:
    """What all have, and how many of it at the least."""
    first, *others = counts
    for each in others:
        first &= each
    return dict(sorted(first.items()))


if __name__ == "__main__":
    made = make_table(json.loads(Path(file).read_bytes()) for file in sys.argv[1:])
    TABLE.write_bytes(msgspec.json.format(msgspec.json.encode(made), indent=1) + b"\n")
