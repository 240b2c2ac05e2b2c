"""Verifies a certificate: draws every verdict again, from the file, the contract and the kit.

What proves a rule isn't taken from the file: the rules are the contract's, what a test must have
on record is the kit's own table, and what is claimed must fit what is excused. The file tells the
histories, the adapter's name and limits, and the versions.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from offload import Claims
from offload.duration import parse_duration
from offload_conformance.certificate import (
    FORMAT,
    FULL,
    PROFILES,
    Certificate,
    RuleRecord,
    TestRecord,
    all_kept,
    digest_of,
    reasons_of,
)
from offload_conformance.deviations import STATED, faults_of
from offload_conformance.evidence import Evidence, Record, excuse_of, kind_of, lacks, table
from offload_conformance.needs import is_excused, misfits
from offload_conformance.possible import impossible
from offload_conformance.rules import RULES
from offload_conformance.verdicts import Verdict, judge, worst

MAX_BYTES = 32 * 1024 * 1024
"""The largest file that is looked at; a full certificate is of less than a third of it."""
MAX_OBJECTS = 1_000_000
"""How many objects and lists may be in it, each of which takes a hundred bytes when it is read."""
CLAIMS = tuple(Claims(fifo=True, durable=True, distributed=True, dead_letters=True).as_dict())
DURATIONS = ("max_delay", "lateness", "recovery", "reconnect")
OPTIONAL = ("recovery", "reconnect")


class MalformedError(Exception):
    """The file is no certificate at all."""


def read(path: Path) -> tuple[Certificate, dict[str, Any]]:
    """The certificate in a file, and its plain content.

    Raises:
        MalformedError: there is none in it.
    """
    try:
        data = _bytes_of(path)
        content = json.loads(data, object_pairs_hook=_object, parse_constant=_refuse_constant)
        return msgspec.convert(content, type=Certificate), content
    except MalformedError:
        raise
    except RecursionError:
        raise MalformedError("it is nested too deeply") from None
    except (OSError, ValueError, msgspec.MsgspecError) as error:
        raise MalformedError(str(error)) from None


def _bytes_of(path: Path) -> bytes:
    if not path.is_file():
        raise MalformedError("it is no regular file")
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise MalformedError(f"it has more than {MAX_BYTES >> 20} MiB")
    if data.count(b"{") + data.count(b"[") > MAX_OBJECTS:
        raise MalformedError(f"it has more than {MAX_OBJECTS:,} objects and lists")
    return data


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise MalformedError("an object has a key twice")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise MalformedError(f"{name} is no number")


def differences(certificate: Certificate, content: dict[str, Any]) -> list[str]:
    """What doesn't follow from the histories, in sentences. Needs no adapter."""
    if certificate.format != FORMAT:
        return [f"its format is {certificate.format}; this release reads {FORMAT}"]
    found = list(_heading(certificate, content))
    if [rule.id for rule in certificate.rules] != list(RULES):
        known = version("offload-conformance")
        return [*found, f"its rules aren't those of the contract, as of version {known} of the kit"]
    for rule in certificate.rules:
        found += _rule(rule, certificate)
    is_whole = certificate.complete and certificate.profile == FULL
    if certificate.certified != (is_whole and all_kept(certificate.rules)):
        found.append("it claims to certify what its verdicts don't")
    return found


# -- what it says of the adapter -----------------------------------------------------


def _heading(certificate: Certificate, content: dict[str, Any]) -> Iterator[str]:
    if certificate.digest != digest_of(content):
        yield "its digest doesn't fit its content"
    if certificate.profile not in PROFILES:
        yield f"its profile is {certificate.profile!r}, not one of {', '.join(PROFILES)}"
    if tuple(certificate.claims) != CLAIMS:
        yield f"its claims aren't {', '.join(CLAIMS)}"
    if not all(certificate.adapter.get(name) for name in ("scheme", "distribution", "version")):
        yield "it doesn't say which adapter was tested"
    if not all(certificate.versions.get(name) for name in ("offload-core", "offload-conformance")):
        yield "it doesn't say which versions tested it"
    if not _is_time(certificate.environment.get("deadline", "")):
        yield "it doesn't say after what time the kit gave up waiting"
    yield from _limits(certificate.limits)
    yield from faults_of(certificate.deviations, certificate.claims)
    states_recovery = certificate.limits.get("recovery", "-") != "-"
    yield from misfits(certificate.claims, states_recovery=states_recovery)


def _limits(limits: dict[str, str]) -> Iterator[str]:
    if set(limits) != {"max_job_bytes", *DURATIONS}:
        yield f"its limits aren't max_job_bytes, {', '.join(DURATIONS)}"
        return
    if not limits["max_job_bytes"].isdecimal():
        yield f"its limit max_job_bytes is {limits['max_job_bytes']!r}, not a number"
    for name in DURATIONS:
        if limits[name] == "-" and name in OPTIONAL:
            continue
        if not _is_time(limits[name]):
            yield f"its limit {name} is {limits[name]!r}, not a time"


def _is_time(text: str) -> bool:
    try:
        return parse_duration(text) > timedelta(0)
    except (ValueError, OverflowError):
        return False


# -- what it says of the rules -------------------------------------------------------


def _rule(rule: RuleRecord, certificate: Certificate) -> Iterator[str]:
    known = RULES[rule.id]
    if rule.text != known.text or rule.claim != known.claim:
        yield f"{rule.id}: its words aren't those of the contract"
    if known.claim is not None and not certificate.claims.get(known.claim):
        told = {test.verdict for test in rule.tests} - {Verdict.NOT_CLAIMED}
        yield from (f"{rule.id}: says {verdict} of what isn't claimed" for verdict in sorted(told))
    if rule.id in certificate.deviations:
        told = {test.verdict for test in rule.tests} - {Verdict.NOT_CLAIMED}
        yield from (f"{rule.id}: says {verdict} of a deviation" for verdict in sorted(told))
    yield from _tests(rule, certificate)
    for test in rule.tests:
        for fault in _test(test, certificate):
            yield f"{rule.id}, {test.name}: {fault}"
    again = worst(Verdict(test.verdict) for test in rule.tests if _is_verdict(test.verdict))
    if again.value != rule.verdict:
        yield f"{rule.id}: says {rule.verdict}, proves {again.value}"
    complete = certificate.complete
    if rule.reasons != reasons_of(again.value, rule.tests, certificate.profile, complete=complete):
        yield f"{rule.id}: its reasons aren't those of its tests"


def _tests(rule: RuleRecord, certificate: Certificate) -> Iterator[str]:
    """Whether they are the tests of the rule, and all of them."""
    names = [test.name for test in rule.tests]
    if len(set(names)) < len(names):
        yield f"{rule.id}: a test is there twice"
    own = {name for name, evidence in table().items() if evidence.rule == rule.id}
    for name in names:
        if name not in own:
            yield f"{rule.id}: the kit has no test {name!r} of it"
    if certificate.complete and certificate.profile == FULL:
        for name in sorted(own - set(names)):
            yield f"{rule.id}: the test {name} is missing"


def _test(test: TestRecord, certificate: Certificate) -> Iterator[str]:
    if not _is_verdict(test.verdict):
        yield f"{test.verdict!r} is no verdict"
        return
    evidence = table().get(test.name)
    try:
        if faults := list(impossible(test)):
            yield from faults
            return
        verdict, reasons = judge(test.history)
        if (verdict.value, reasons) != (test.verdict, test.reasons):
            yield f"says {test.verdict}, proves {verdict.value}"
        elif evidence is not None:
            yield from _support(test, verdict, certificate, evidence)
    except Exception as error:
        yield f"its history can't be judged: {type(error).__name__}: {error}"


def _is_verdict(text: str) -> bool:
    return text in list(Verdict)


def _support(
    test: TestRecord, verdict: Verdict, certificate: Certificate, evidence: Evidence
) -> Iterator[str]:
    """What the kit would have on record for this verdict, and the file hasn't."""
    if verdict is Verdict.PASS:
        for excuse in evidence.excuses:
            if is_excused(excuse, certificate.claims, certificate.limits):
                yield f"it was tested, and yet {excuse!r}"
        kind = kind_of(certificate.claims, certificate.limits)
        yield from lacks(Record(test.history, certificate.limits, kind), evidence)
    elif verdict is Verdict.NOT_CLAIMED:
        excuse = excuse_of(test.history) or ""
        reason = certificate.deviations.get(evidence.rule)
        if excuse.startswith(STATED):
            if reason is None or excuse != STATED + reason:
                yield f"{excuse!r}, and it lists no such deviation"
        elif reason is not None:
            yield f"{excuse!r}, and not the deviation that it lists"
        elif excuse not in evidence.excuses:
            yield f"{excuse!r} is no excuse for it"
        elif not is_excused(excuse, certificate.claims, certificate.limits):
            yield f"{excuse!r}, it says, against its own claims"
