"""What a test needs of an adapter and of its author; without it, the test proves nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NoReturn

import pytest

from offload import Adapter
from offload.adapters import find_adapter
from offload.config import parse_address
from offload_conformance.authors import GoldenStates, Inject, Server
from offload_conformance.deviations import STATED, DeviationError, faults_of
from offload_conformance.fixtures import FixtureError, Published, UnverifiedError
from offload_conformance.golden_states import GoldenState, recorded
from offload_conformance.history import History
from offload_conformance.rules import Rule

_NOT_CLAIMED = " is not claimed"
_NO_SERVER = "the backend can't go away alone"
_NO_STRANGERS = "no bytes come from elsewhere"


def is_excused(excuse: str, claims: Mapping[str, bool], limits: Mapping[str, str]) -> bool:
    """Whether that, which a test gives as a reason to prove nothing, holds of an adapter."""
    if excuse == _NO_SERVER:
        return limits["reconnect"] == "-"
    if excuse == _NO_STRANGERS:
        return not (claims["durable"] or claims["distributed"])
    claim, told, _ = excuse.partition(_NOT_CLAIMED)
    return bool(told) and claims.get(claim) is False


def misfits(claims: Mapping[str, bool], *, states_recovery: bool) -> Iterator[str]:
    """What of an adapter's statements doesn't fit together, in sentences."""
    if claims.get("durable") and not states_recovery:
        yield "an adapter that is durable must state its recovery"
    elif states_recovery and not (claims.get("durable") or claims.get("distributed")):
        yield "an adapter that is neither durable nor distributed has no recovery to state"


def adapter_of(url: str) -> Adapter:
    """The adapter behind a config string."""
    return find_adapter(parse_address(url).scheme)


class Needs:
    """What there is, for a test to ask for."""

    def __init__(self, history: History, adapter: Adapter, published: Published) -> None:
        self.history = history
        self.adapter = adapter
        self.claims = adapter.claims
        self.limits = adapter.limits
        self._published = published

    @property
    def is_shared(self) -> bool:
        """Whether the jobs are in a backend that outlives a worker."""
        return self.claims.durable or self.claims.distributed

    @property
    def has_own_clock(self) -> bool:
        """Whether the backend may be on another host than a worker."""
        return self.claims.distributed and self.limits.reconnect is not None

    def need_to_keep(self, rule: Rule) -> None:
        """End the test of an adapter that isn't bound by this rule.

        Raises:
            DeviationError: the adapter states what none may state, of whatever rule.
        """
        if faults := list(faults_of(self.adapter.deviations, self.claims.as_dict())):
            raise DeviationError("; ".join(faults))
        if rule.claim is not None:
            self.need(rule.claim)
        if (reason := self.adapter.deviations.get(rule.id)) is not None:
            self.skip(STATED + reason)

    def need(self, claim: str) -> None:
        """End the test of an adapter that doesn't make this claim, besides that of the chapter."""
        if not self.claims.as_dict()[claim]:
            self.skip(claim + _NOT_CLAIMED)

    def need_server(self) -> Server:
        """The author's server; without one, the rule stays unverified.

        An adapter that states no `reconnect` has no backend that could go away alone.
        """
        if self.limits.reconnect is None:
            self.skip(_NO_SERVER)
        if self._published.server is None:
            self.leave_unverified("no server to strike was given: see the fixture offload_server")
        return self._published.server

    def need_inject(self) -> Inject:
        """The author's way to put bytes into the backend; without one, the rule stays unverified.

        Where jobs live in the memory of one process no stranger's bytes can ever come, so there
        is nothing to prove. Wherever they outlive the process, or others write too, there is:
        who lacks the fixture isn't certified.
        """
        if not self.is_shared:
            self.skip(_NO_STRANGERS)
        if self._published.inject is None:
            self.leave_unverified("no way to inject bytes was given: the fixture offload_inject")
        return self._published.inject

    def need_states(self) -> list[GoldenState]:
        """What earlier releases have left; without any, the rule stays unverified.

        An adapter that has had no release yet gives what its first one will leave.

        Raises:
            FixtureError: the files can't be read.
        """
        states = self._published.states
        if states is None:
            self.leave_unverified(
                "no states that releases have left were given: the fixture offload_golden_states"
            )
        try:
            found = recorded(states.folder)
        except (OSError, ValueError) as error:
            raise FixtureError(f"the states in {states.folder} can't be read: {error}") from error
        if not found:
            self.leave_unverified(f"no state is in {states.folder}: record one")
        return found

    @property
    def states(self) -> GoldenStates:
        """The author's; for those who know that there are some."""
        if self._published.states is None:
            raise AssertionError("no states were given: the fixture offload_golden_states")
        return self._published.states

    @property
    def golden(self) -> Mapping[str, bytes]:
        """What each released wire version wrote for a job of the handler `golden`."""
        return self._published.golden

    def skip(self, why: str) -> NoReturn:
        """End the test, and record why the adapter isn't bound by it."""
        self.history.add("not_claimed", why=why)
        pytest.skip(why)

    def leave_unverified(self, why: str) -> NoReturn:
        """End the test, and record what its author hasn't given."""
        self.history.add("unverified", why=why)
        raise UnverifiedError(why)
