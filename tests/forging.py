"""Hands that change a certificate, and keep its digest right."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from msgspec import convert

from offload_conformance.certificate import Certificate, digest_of
from offload_conformance.verification import differences

Content = dict[str, Any]
TRIVIAL = {"check": "equal", "what": "all", "expected": 1, "actual": 1}


def rule(content: Content, rule_id: str = "PERF-2") -> Content:
    return next(each for each in content["rules"] if each["id"] == rule_id)


def record_of(content: Content, name: str) -> Content:
    found: Content = next(
        test for each in content["rules"] for test in each["tests"] if test["name"] == name
    )
    return found


def records(content: Content) -> list[Content]:
    return [test for each in content["rules"] for test in each["tests"]]


def renumber(test: Content) -> None:
    for number, event in enumerate(test["history"]):
        event["number"] = number


def keep(test: Content, wanted: Callable[[Content], bool]) -> None:
    test["history"] = [event for event in test["history"] if wanted(event)]
    renumber(test)
    test["seconds"] = test["history"][-1]["at"] if test["history"] else 0.0


def checks(test: Content, name: str) -> list[Content]:
    return [
        event["what"]
        for event in test["history"]
        if event["name"] == "check" and event["what"]["check"] == name
    ]


def trivial(test: Content) -> None:
    event = {"number": 0, "at": 0.0, "wall_ms": 1e12, "name": "check", "what": dict(TRIVIAL)}
    test.update(history=[event], verdict="pass", reasons=[], seconds=0.0)


def excuse(content: Content, test: Content, why: str) -> None:
    event = {"number": 0, "at": 0.0, "wall_ms": 1e12, "name": "not_claimed", "what": {"why": why}}
    test.update(history=[event], verdict="not claimed", reasons=[why], seconds=0.0)


def settle(content: Content) -> None:
    """The verdicts on the rules, with their reasons, as they follow from those on the tests."""
    order = ["fail", "unknown", "unverified", "not claimed", "pass"]
    for each in content["rules"]:
        verdicts = [test["verdict"] for test in each["tests"]]
        each["verdict"] = min(verdicts, key=order.index, default="unverified")
        told = [test["reasons"] for test in each["tests"] if test["verdict"] == each["verdict"]]
        if each["tests"]:
            each["reasons"] = list(dict.fromkeys(reason for reasons in told for reason in reasons))


def set_to(*path: Any, value: Any) -> Callable[[Content], None]:
    def change(content: Content) -> None:
        place: Any = content
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value

    return change


def dropped(*path: Any) -> Callable[[Content], None]:
    def change(content: Content) -> None:
        place: Any = content
        for key in path[:-1]:
            place = place[key]
        del place[path[-1]]

    return change


def told_of(genuine_text: str, forge: Callable[[Content], None]) -> list[str]:
    """What is told of a genuine certificate after it went through these hands."""
    content: Content = json.loads(genuine_text)
    forge(content)
    content["digest"] = digest_of(content)
    return differences(convert(content, type=Certificate), content)
