"""What a test of the kit must have on record before it proves its rule.

The table beside this module is made from certificates of adapters that keep every rule, by
`python -m offload_conformance.evidence CERTIFICATE…`: of each test, what all of them have, and
what all of a kind have. So a record that was made up, of less than the test does, is told from one
that was made.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import msgspec

from offload.duration import parse_duration
from offload_conformance.deviations import STATED
from offload_conformance.history import Event

TABLE = Path(__file__).with_name("evidence.json")
FEWER = 2
"""By this factor a record may have fewer events than any that the table knows: of those that
come from elsewhere, which may still be under way when a test ends, and of all where a fault
strikes, which hits one more or one less."""
BATCHED = "tallied"
"""Events that tell of several runs each, and of the more the faster they come."""
UNSURE = "ready"
"""What a process says when it has started, if it isn't killed before: it may take a job first."""
OWN = ("accepted", "performed", "refused")
"""Events that the test itself writes, one after each of its calls: they are never fewer."""
_BOUNDS = (
    ("limit_ms", "lateness", timedelta(milliseconds=1)),
    ("limit_s", "recovery", timedelta(seconds=1)),
    ("limit", "reconnect", timedelta(seconds=1)),
    ("limit", "max_delay", timedelta(seconds=1)),
    ("limit", "max_job_bytes", None),
)
"""Parameters of checks that may be made of a limit, and its unit, unless it is a number."""
_MULTIPLE = 4
"""A bound is a limit, or this many times one."""
_FOUND = {"actual", "part", "laid", "requeued"}
"""Parameters of checks that are found, and differ from host to host, or from author to author."""

Limits: TypeAlias = Mapping[str, str]
"""As a certificate has them."""
Kind: TypeAlias = Mapping[str, bool]
"""What decides which steps a test takes: the claims, and whether there is a server."""


class Record(NamedTuple):
    """A test of some adapter that passed."""

    history: list[Event]
    limits: Limits
    kind: Kind


class Part(msgspec.Struct, frozen=True):
    """What a test has on record of every adapter of some kind."""

    kind: dict[str, bool]
    """Such adapters; all, if empty."""
    events: dict[str, int]
    """By name, the fewest that there were."""
    checks: dict[str, int]
    """The same of the checks, by their names and the parameters that are the same for all."""


class Evidence(msgspec.Struct, frozen=True):
    """Of one test."""

    rule: str
    parts: list[Part]
    excuses: list[str]
    """Why it proves nothing of some adapters."""
    strangers: bool
    """Whether jobs run that no call has returned: of an earlier release, or of a lost answer."""
    faults: bool
    """Whether a fault strikes in it."""


@cache
def table() -> Mapping[str, Evidence]:
    """All tests of the kit, by name."""
    return msgspec.json.decode(TABLE.read_bytes(), type=dict[str, Evidence])


def kind_of(claims: Mapping[str, bool], limits: Limits) -> dict[str, bool]:
    """The kind of an adapter, from what its certificate states."""
    return {**claims, "reconnect": limits["reconnect"] != "-"}


def _for_each_state(counts: Counter[str], history: list[Event]) -> Counter[str]:
    """The same for each state of an earlier release that was laid: an author may have several."""
    states = max(1, sum(event.name == "laid" for event in history))
    return Counter({name: -(-count // states) for name, count in counts.items()})


def _events_of(history: list[Event]) -> Counter[str]:
    return _for_each_state(Counter(event.name for event in history), history)


def lacks(record: Record, evidence: Evidence) -> Iterator[str]:
    """What a passing record of the test would have, and this one hasn't."""
    events = _events_of(record.history)
    checks = labels_of(record.history, record.limits)
    for part in evidence.parts:
        if part.kind.items() <= record.kind.items():
            yield from _fewer_events(events, part, evidence)
            yield from _fewer_checks(checks, part)
    if not evidence.strangers and (unknown := strangers_in(record.history)):
        yield f"job {min(unknown)} ran, and was never performed"


def _fewer_events(events: Counter[str], part: Part, evidence: Evidence) -> Iterator[str]:
    for name, fewest in part.events.items():
        is_exact = name in OWN and not evidence.faults
        if events[name] < (fewest if is_exact else max(1, fewest // FEWER)):
            yield f"{events[name]} events {name!r} are fewer than the test makes"


def _fewer_checks(checks: Counter[str], part: Part) -> Iterator[str]:
    for label, fewest in part.checks.items():
        # Of a check that isn't the same for all, there may be as many as the host has things.
        if checks[label] < (fewest if " " in label else 1):
            yield f"the check {label} is missing"


def labels_of(history: list[Event], limits: Limits) -> Counter[str]:
    """The checks of a history: by name, with their parameters, and in terms of the limits."""
    labels: Counter[str] = Counter()
    for event in history:
        if event.name != "check":
            continue
        what = {key: value for key, value in event.what.items() if key not in _FOUND}
        name = str(what.pop("check"))
        # A bound that is a limit is none of its own: another adapter has another limit.
        of_limits = dict(_in_terms_of(limits, name, what))
        own = [] if 1 in of_limits.values() else [_label(name, what)]
        labels.update({name, *own, *of_limits})
    return _for_each_state(labels, history)


def _label(name: object, what: Mapping[str, object]) -> str:
    return f"{name} {json.dumps(what, sort_keys=True)}"


def _in_terms_of(limits: Limits, name: str, what: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The same with a bound as a multiple of each limit of which it may be made; and which."""
    for key, limit, unit in _BOUNDS:
        stated, bound = limits.get(limit, "-"), what.get(key)
        if stated != "-" and isinstance(bound, int | float):
            whole = int(stated) if unit is None else parse_duration(stated) / unit
            if bound in (whole, _MULTIPLE * whole):
                times = bound / whole
                yield _label(name, {**what, key: f"{times:g} of {limit}"}), times


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
        limits = certificate["limits"]
        kind = kind_of(certificate["claims"], limits)
        for rule in certificate["rules"]:
            for test in rule["tests"]:
                name, history = test["name"], msgspec.convert(test["history"], list[Event])
                rules[name] = rule["id"]
                if test["verdict"] == "pass":
                    passed.setdefault(name, []).append(Record(history, limits, kind))
                elif (excuse := excuse_of(history)) and not excuse.startswith(STATED):
                    excuses.setdefault(name, set()).add(excuse)
    return {
        name: _evidence_of(rules[name], passed[name], excuses.get(name, set()))
        for name in sorted(rules)
    }


def _evidence_of(rule: str, records: list[Record], excuses: set[str]) -> Evidence:
    events = [_events_of(record.history) for record in records]
    faults = any(each["fault"] for each in events)
    for each in events:
        each[BATCHED] = min(each[BATCHED], 1)
        if faults:
            del each[UNSURE]
    checks = [labels_of(record.history, record.limits) for record in records]
    kinds = [record.kind for record in records]
    by_kind: dict[frozenset[tuple[str, bool]], Part] = {}
    for counts, section in ((events, "events"), (checks, "checks")):
        for kind, name, fewest in _common(counts, kinds):
            part = by_kind.setdefault(frozenset(kind.items()), Part(kind, {}, {}))
            getattr(part, section)[name] = fewest
    return Evidence(
        rule,
        sorted(by_kind.values(), key=lambda part: sorted(part.kind.items())),
        sorted(excuses),
        any(strangers_in(record.history) for record in records),
        faults,
    )


def _common(
    counts: list[Counter[str]], kinds: list[Kind]
) -> Iterator[tuple[dict[str, bool], str, int]]:
    """The kinds of adapters all of which have something on record, and how many at the least.

    What some have and others of the same kind haven't is a matter of chance, as is what only
    one has. What is left is asked of the adapters that have in common all that those have.
    """
    for name in sorted(set().union(*counts)):
        for fewest in sorted({each[name] for each in counts} - {0}):
            having = [
                kind for kind, each in zip(kinds, counts, strict=True) if each[name] >= fewest
            ]
            others = [kind for kind, each in zip(kinds, counts, strict=True) if each[name] < fewest]
            if not others:
                yield {}, name, fewest
                continue
            common = dict(set.intersection(*(set(kind.items()) for kind in having)))
            if len(having) > 1 and not any(common.items() <= other.items() for other in others):
                yield dict(sorted(common.items())), name, fewest


if __name__ == "__main__":
    made = make_table(json.loads(Path(file).read_bytes()) for file in sys.argv[1:])
    TABLE.write_bytes(msgspec.json.format(msgspec.json.encode(made), indent=1) + b"\n")
