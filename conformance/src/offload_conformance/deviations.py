"""Deviations: rules that an adapter states it can't keep, and from which rules none may.

An adapter that deviates says so, rule by rule, with a reason: in its own code, in its certificate
and wherever the kit tells of that. What is stated so isn't tested. Since that would be the way
around everything that is hard, no reason is good enough for a rule without which a job could be
lost, doubled or changed and nobody be told, nor for what makes a claim worth its name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from offload_conformance.rules import RULES

STATED = "the adapter states: "
"""How the reason of a verdict begins that comes of a deviation."""
LONGEST = 200
"""Characters of a reason: it is shown on one line."""

CORE: Mapping[str, str] = MappingProxyType(
    {
        "CONF-5": "a password that leaks is no matter of the backend",
        "ARGS-1": "a handler would work on other args than were performed",
        "PERF-2": "without faults, a job must neither be lost nor doubled",
        "LIFE-13": "a job would vanish in silence",
    }
)
"""Rules from which no adapter may deviate, each with what would be lost."""
CORE_OF_DURABLE: Mapping[str, str] = MappingProxyType(
    {
        "PERF-1": "what was accepted might not be stored",
        "PERF-8": "a caller couldn't know whether a job is stored",
        "LIFE-7": "a stop would lose what runs, or charge an attempt for it",
        "FAIL-1": "a job that was accepted would be given up at the first failure",
        "FAIL-3": "a job that was accepted would be dropped",
        "FAIL-7": "a job that was accepted would be dropped",
        "FAIL-8": "a job that was stored would be dropped",
    }
)
"""The same of an adapter that claims `durable`; one that wants out of these drops the claim."""


STATABLE = frozenset({"FIFO-3"})
"""Rules that belong to a claim, and not to its heart: who makes the claim may deviate from them."""


class DeviationError(Exception):
    """An adapter states a deviation that it may not state."""


def faults_of(deviations: Mapping[str, str], claims: Mapping[str, bool]) -> Iterator[str]:
    """What is wrong with these deviations of an adapter with these claims, in sentences."""
    for rule_id, reason in deviations.items():
        rule = RULES.get(rule_id)
        if rule is None:
            yield f"it deviates from {rule_id}, and there is no such rule"
            continue
        if not isinstance(reason, str) or not reason.strip():
            yield f"it deviates from {rule_id} without a reason"
        elif len(reason) > LONGEST or not reason.isprintable():
            yield f"its reason for {rule_id} isn't one line of at most {LONGEST} characters"
        if rule_id in STATABLE:
            if not claims.get(rule.claim or ""):
                yield f"it deviates from {rule_id}, and doesn't claim {rule.claim}"
        elif rule.claim is not None:
            yield (
                f"it deviates from {rule_id}, which belongs to the claim {rule.claim}: an adapter "
                "that can't keep it doesn't make the claim"
            )
        elif rule_id in CORE:
            yield f"no adapter may deviate from {rule_id}: {CORE[rule_id]}"
        elif rule_id in CORE_OF_DURABLE and claims.get("durable"):
            yield (
                f"an adapter that claims durable may not deviate from {rule_id}: "
                f"{CORE_OF_DURABLE[rule_id]}"
            )


def told(deviations: Mapping[str, str]) -> str:
    """The deviations in a line: `TIME-10: the scheduler counts whole seconds; …`."""
    return "; ".join(f"{rule_id}: {reason}" for rule_id, reason in deviations.items())
