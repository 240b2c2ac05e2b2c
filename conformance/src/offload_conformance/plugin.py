"""The pytest plugin: each rule is a test, with the adapter's URL as its fixture.

    pytest --pyargs offload_conformance --offload-url myqueue://localhost

or, in an author's own suite, a file of two lines, and the URL as a fixture:

    from offload_conformance.suite import *
    # conftest.py: @pytest.fixture def offload_url(): return "myqueue://localhost"
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Generator
from importlib.metadata import entry_points

import pytest
import pytest_asyncio

from offload.config import parse_address
from offload_conformance.golden import GOLDEN
from offload_conformance.history import History, describe
from offload_conformance.lab import Lab, RuleBrokenError
from offload_conformance.leaks import Belongings
from offload_conformance.limit import Limit
from offload_conformance.needs import Inject, Needs, Server, adapter_of
from offload_conformance.rules import RULES, Rule
from offload_conformance.stage import Stage

AUTHORS = "offload.conformance"
"""Entry points by scheme: a pytest plugin with the fixtures that only an author can give."""

RULE_OF_TEST = re.compile(r"test_([A-Z]+)_(\d+)_")

loop_key = pytest.StashKey[asyncio.AbstractEventLoop]()
history_key = pytest.StashKey[History]()
"""Where a test keeps its history, for whoever writes the certificate."""


def rule_of(item: pytest.Item) -> Rule | None:
    """The rule that a test proves, by its name: `test_TIME_7_due_order`."""
    match = RULE_OF_TEST.match(item.name)
    return RULES.get(f"{match[1]}-{match[2]}") if match else None


def pytest_addoption(parser: pytest.Parser) -> None:
    """Our options."""
    group = parser.getgroup("offload", "conformance of Offload adapters")
    group.addoption("--offload-url", help="config string of the adapter to test")
    group.addoption("--rule", action="append", help="test this rule only, e.g. TIME-7; repeatable")
    group.addoption("--claim", action="append", help="test this claim's rules only; repeatable")
    group.addoption("--quick", action="store_true", help="leave out what takes long")


def pytest_configure(config: pytest.Config) -> None:
    """Our marker, and the fixtures that the author of the adapter has published."""
    config.addinivalue_line("markers", "slow: takes long; left out of the quick profile")
    if url := config.getoption("offload_url"):
        for author in entry_points(group=AUTHORS, name=parse_address(url).scheme):
            config.pluginmanager.import_plugin(author.value)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Select by rule, by claim, and by profile."""
    rules, claims = config.getoption("rule"), config.getoption("claim")
    quick = config.getoption("quick")
    kept: list[pytest.Item] = []
    dropped: list[pytest.Item] = []
    for item in items:
        rule = rule_of(item)
        wanted = rule is None or (
            (not rules or rule.id in rules)
            and (not claims or rule.claim in claims)
            and not (quick and item.get_closest_marker("slow"))
        )
        (kept if wanted else dropped).append(item)
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = kept


@pytest.fixture
def offload_url(request: pytest.FixtureRequest) -> str:
    """The config string under test."""
    url: str | None = request.config.getoption("offload_url")
    if url is None:
        pytest.fail("give --offload-url, or a fixture offload_url of your own", pytrace=False)
    return url


@pytest.fixture
def offload_server() -> Server | None:
    """The backend's server, which fault rules kill and restart; None leaves them unverified.

    It must run when a test begins, even where the test before failed while it was killed.
    """
    return None


@pytest.fixture
def offload_inject() -> Inject | None:
    """Puts bytes into a queue as a stranger would; None leaves FAIL-8 and DIST-4 unverified."""
    return None


@pytest.fixture
def offload_golden() -> dict[str, bytes]:
    """What each released wire version wrote for a job of the handler `golden`.

    Override it only if your adapter has a wire format of its own.
    """
    return dict(GOLDEN)


@pytest_asyncio.fixture
async def lab(
    request: pytest.FixtureRequest,
    offload_url: str,
    offload_server: Server | None,
    offload_inject: Inject | None,
) -> AsyncIterator[Lab]:
    """Workers with puppets on the adapter under test, and the record of what they do."""
    history = History()
    request.node.stash[history_key] = history
    request.node.stash[loop_key] = asyncio.get_running_loop()
    rule = rule_of(request.node)
    if rule:
        needs = Needs(history, adapter_of(offload_url), offload_server, offload_inject)
        needs.need_to_keep(rule)
    before = Belongings.now()
    async with Stage(history) as stage:
        lab = Lab(offload_url, stage, offload_server, offload_inject)
        try:
            yield lab
        finally:
            await lab.close()
    if not history.named("failed"):
        lab.equal("left behind", [], Belongings.now().more_than(before))
        lab.conclude()


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """A test has a limit, and a KeyboardInterrupt of its handlers ends no run."""
    if rule_of(pyfuncitem) is None:
        return (yield)
    limit = Limit(pyfuncitem.stash.get(loop_key, None))
    try:
        with limit:
            result = yield
    except BaseException as error:
        limit.check()
        if not isinstance(error, KeyboardInterrupt) or not str(error):  # a real one has no text
            raise
        raise RuleBrokenError("a KeyboardInterrupt in a handler ended the event loop") from None
    limit.check()
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure that reads like that of a good compiler."""
    report = yield
    rule = rule_of(item)
    history = item.stash.get(history_key, None)
    if rule and history and report.failed and call.excinfo is not None:
        history.add("failed", when=call.when, text=f"{call.excinfo.typename}: {call.excinfo.value}")
        lines = [
            f"{rule.id}: {rule.text}",
            "",
            f"  {call.excinfo.value}",
            "",
            "  the last of what happened:",
            *(f"  {describe(event)}" for event in history.events[-12:]),
            "",
            f"  again: pytest --pyargs offload_conformance --offload-url URL --rule {rule.id}",
        ]
        report.longrepr = "\n".join(lines)
    return report
