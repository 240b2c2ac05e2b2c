"""The certificate: one JSON file with every verdict and the histories that prove it."""

from __future__ import annotations

import hashlib
import json
import platform
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from offload.adapters import find_adapter, installed_schemes
from offload.config import parse_address
from offload.duration import format_duration
from offload_conformance.history import Event
from offload_conformance.rules import RULES
from offload_conformance.stage import DEADLINE
from offload_conformance.verdicts import Verdict, judge, worst

FORMAT = 1
FULL = "full"
SELECTED = "selected"
PROFILES = (FULL, "quick", SELECTED)


class TestRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One test of a rule."""

    __test__ = False

    name: str
    verdict: str
    reasons: list[str]
    seconds: float
    history: list[Event]


class RuleRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One rule, with all its tests."""

    id: str
    text: str
    claim: str | None
    verdict: str
    reasons: list[str]
    """Why it isn't a pass."""
    tests: list[TestRecord]


class Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who answers for a certificate."""

    key: str
    """The public key, as OpenSSH writes it."""
    value: str
    """In Base64."""


class Certificate(msgspec.Struct, forbid_unknown_fields=True):
    """What was found of an adapter."""

    format: int
    adapter: dict[str, str]
    versions: dict[str, str]
    environment: dict[str, str]
    """Where it was tested, and after how long what had to happen counted as missing."""
    claims: dict[str, bool]
    deviations: dict[str, str]
    """The rules that the adapter states it can't keep, each with its reason."""
    notes: dict[str, str]
    limits: dict[str, str]
    profile: str
    complete: bool
    """False when the run was cut short."""
    certified: bool
    """Whether every claimed rule passed, but for the deviations, in a complete run."""
    rules: list[RuleRecord]
    digest: str = ""
    signature: Signature | None = None


def make_record(name: str, seconds: float, history: list[Event]) -> TestRecord:
    """The record of a test that has ended."""
    verdict, reasons = judge(history)
    return TestRecord(name, verdict.value, reasons, round(seconds, 3), history)


def make_certificate(
    url: str, tests: dict[str, list[TestRecord]], *, profile: str, complete: bool
) -> Certificate:
    """The certificate of what these tests, by rule, have found."""
    scheme = parse_address(url).scheme
    adapter = find_adapter(scheme)
    ((distribution, release),) = installed_schemes()[scheme]
    rules = [
        _make_rule(rule_id, tests.get(rule_id, []), profile, complete=complete) for rule_id in RULES
    ]
    certificate = Certificate(
        format=FORMAT,
        adapter={"scheme": scheme, "distribution": distribution, "version": release},
        versions={
            name: version(name) for name in ("offload-core", "offload-conformance", "pytest")
        },
        environment={
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.machine()}",
            "deadline": format_duration(timedelta(seconds=DEADLINE)),
        },
        claims=adapter.claims.as_dict(),
        deviations=dict(adapter.deviations),
        notes=dict(adapter.claims.notes),
        limits={
            "max_job_bytes": str(adapter.limits.max_job_bytes),
            **{
                name: format_duration(limit) if (limit := getattr(adapter.limits, name)) else "-"
                for name in ("max_delay", "lateness", "recovery", "reconnect")
            },
        },
        profile=profile,
        complete=complete,
        certified=complete and profile == FULL and all_kept(rules),
        rules=rules,
    )
    certificate.digest = digest_of(msgspec.to_builtins(certificate))
    return certificate


def _make_rule(
    rule_id: str, tests: list[TestRecord], profile: str, *, complete: bool
) -> RuleRecord:
    rule = RULES[rule_id]
    verdict = worst(Verdict(test.verdict) for test in tests).value
    reasons = reasons_of(verdict, tests, profile, complete=complete)
    return RuleRecord(rule.id, rule.text, rule.claim, verdict, reasons, tests)


def reasons_of(verdict: str, tests: list[TestRecord], profile: str, *, complete: bool) -> list[str]:
    """Why a rule has this verdict: the reasons of the tests that have it, or why there is none."""
    if tests:
        told = (reason for test in tests if test.verdict == verdict for reason in test.reasons)
        return list(dict.fromkeys(told))
    if not complete:
        return ["no test of it has run: the run was cut short"]
    return [f"no test of it in the {profile} profile"]


def all_kept(rules: list[RuleRecord]) -> bool:
    """Whether the adapter keeps every rule that binds it."""
    return all(rule.verdict in (Verdict.PASS, Verdict.NOT_CLAIMED) for rule in rules)


def digest_of(content: dict[str, Any]) -> str:
    """The digest of the plain content, so that nothing which the file says is left out."""
    content = {**content, "digest": "", "signature": None}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def write(certificate: Certificate, folder: Path) -> Path:
    """Write it to a file of its own in a folder, and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    # None but a whole one is ever written over a whole one.
    state = "" if certificate.profile == FULL else f"-{certificate.profile}"
    state += "" if certificate.complete else "-partial"
    path = folder / f"{certificate.adapter['scheme']}{state}.json"
    write_to(path, certificate)
    return path


def write_to(path: Path, certificate: Certificate) -> None:
    """Write it to this file."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(certificate), indent=1) + b"\n")
