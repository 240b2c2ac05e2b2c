"""The pytest plugin: each rule is a test, with the adapter's URL as its fixture.

    pytest --pyargs offload_conformance --offload-url myqueue://localhost

or, in an author's own suite, a file of two lines, and the URL as a fixture:

    from offload_conformance.suite import *
    # conftest.py: @pytest.fixture def offload_url(): return "myqueue://localhost"
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import re
import traceback
from collections.abc import AsyncIterator, Callable, Generator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from offload import OffloadError
from offload_conformance.authors import Fresh, GoldenStates, Inject, Server
from offload_conformance.fixtures import (
    FixtureError,
    Origins,
    Published,
    UnverifiedError,
    load_fixtures,
)
from offload_conformance.golden import GOLDEN
from offload_conformance.history import History, describe
from offload_conformance.lab import Lab, RuleBrokenError
from offload_conformance.leaks import Belongings
from offload_conformance.limit import Limit
from offload_conformance.logs import KeptLines, Masked
from offload_conformance.needs import Needs, adapter_of
from offload_conformance.rules import RULES, Rule
from offload_conformance.stage import Stage

SUITE = Path(__file__).with_name("suite")
RULE_OF_TEST = re.compile(r"test_([A-Z]+)_(\d+)_")

_NOT_AUTHORS = ("/pluggy/", "/_pytest/", "/pytest_asyncio/", "/asyncio/")
"""Frames of a traceback that tell an author nothing."""

MOST_EVENTS = 16
"""How many are shown of a test that failed, the last ones."""

loop_key = pytest.StashKey[asyncio.AbstractEventLoop]()
history_key = pytest.StashKey[History]()
"""Where a test keeps its history, for whoever writes the certificate."""
lines_key = pytest.StashKey[KeptLines]()
origins_key = pytest.StashKey[Origins]()


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
    group.addoption(
        "--record", help=argparse.SUPPRESS
    )  # for `python -m offload_conformance.record`


def pytest_configure(config: pytest.Config) -> None:
    """Our marker, and the fixtures that the author of the adapter has published."""
    config.addinivalue_line("markers", "slow: takes long; left out of the quick profile")
    config.stash[origins_key] = Origins()
    if url := config.getoption("offload_url"):
        try:
            load_fixtures(config, url)
        except FixtureError as error:
            raise pytest.UsageError(f"{error}\n\n{traced(error, Masked(url))}") from None
        except OffloadError as error:
            raise pytest.UsageError(str(error)) from None


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Of the suite, read only the chapters that hold a test of the rules asked for."""
    rules = config.getoption("rule")
    if not rules or collection_path.parent != SUITE or collection_path.suffix != ".py":
        return None
    text = collection_path.read_text()
    wanted = any(f"def test_{rule.replace('-', '_')}_" in text for rule in rules)
    return None if wanted or collection_path.name == "__init__.py" else True


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
def offload_fresh() -> Fresh | None:
    """Finds places that nobody has ever used; with None, only the namespace of a test is new."""
    return None


@pytest.fixture
def offload_golden() -> Mapping[str, bytes]:
    """What each released wire version wrote for a job of the handler `golden`.

    Override it only if your adapter has a wire format of its own.
    """
    return dict(GOLDEN)


@pytest.fixture
def offload_golden_states() -> GoldenStates | None:
    """What earlier releases have left in the backend; None leaves DUR-10 unverified."""
    return None


@pytest.fixture
def offload_published(request: pytest.FixtureRequest, offload_url: str) -> Published:
    """What the author gives besides the URL: published, or overridden in a suite of their own.

    Asked for by their names only now: which fixtures are published for the adapter is known
    once there is a URL.
    """
    load_fixtures(request.config, offload_url)
    return request.config.stash[origins_key].publish(request)


@pytest_asyncio.fixture
async def lab(
    request: pytest.FixtureRequest, offload_url: str, offload_published: Published
) -> AsyncIterator[Lab]:
    """Workers with puppets on the adapter under test, and the record of what they do."""
    history = History()
    request.node.stash[history_key] = history
    request.node.stash[loop_key] = asyncio.get_running_loop()
    rule = rule_of(request.node)
    if rule:
        needs = Needs(history, adapter_of(offload_url), offload_published)
        needs.need_to_keep(rule)
    before = Belongings.now()
    async with Stage(history) as stage:
        lab = Lab(offload_url, stage, offload_published)
        try:
            yield lab
        finally:
            # As a task, whose stack can be told if it hangs; that of a fixture can't.
            await asyncio.create_task(lab.close())
    if not history.named("failed", "unverified"):
        lab.equal("left behind", [], Belongings.now().more_than(before))
        lab.conclude()


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Generator[None, object, object]:
    """Remember whose fixture it is."""
    request.config.stash[origins_key].note(fixturedef)
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Keep what is logged during a test of a rule."""
    if rule_of(item) is None:
        return (yield)
    with KeptLines(lambda text: masked(item, text)) as lines:
        item.stash[lines_key] = lines
        done = yield
        if history_key in item.stash:
            _history_of(item)  # what was logged since
        return done


def masked(item: pytest.Item, text: str) -> str:
    """A text without the secrets of the URL under test."""
    url = item.config.getoption("offload_url")
    try:
        return Masked(url)(text) if url else text
    except OffloadError:  # no config string: nothing connects to it
        return text


def traced(error: BaseException, masked: Callable[[str], str]) -> str:
    """An error of an author's fixtures, with its traceback."""
    told = traceback.TracebackException.from_exception(error.__cause__ or error)
    told.stack = traceback.StackSummary.from_list(
        [frame for frame in told.stack if not any(part in frame.filename for part in _NOT_AUTHORS)]
    )
    return masked("".join(told.format(chain=False)))


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """A test has a limit, and a KeyboardInterrupt of its handlers ends no run."""
    if rule_of(pyfuncitem) is None:
        return (yield)
    try:
        return (yield from _limited(pyfuncitem, "the test", lambda _: contextlib.nullcontext()))
    except KeyboardInterrupt as error:
        if not str(error):  # a real one has no text
            raise
        raise RuleBrokenError("a KeyboardInterrupt in a handler ended the event loop") from None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, object, object]:
    """What sets a test up has a limit, too."""
    if rule_of(item) is None:
        return (yield)
    return (yield from _limited(item, "the setup of the test", Limit.as_error))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """What tears a test down has one."""
    if rule_of(item) is None:
        return (yield)
    return (yield from _limited(item, "the teardown of the test", Limit.as_error))


def _limited(
    item: pytest.Item, what: str, how: Callable[[Limit], AbstractContextManager[None]]
) -> Generator[None, object, object]:
    limit = Limit(item.stash.get(loop_key, None), what=what)
    try:
        with limit, how(limit):
            result = yield
    except BaseException:
        limit.check()
        raise
    limit.check()
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure that reads like that of a good compiler, with its place in the history."""
    report = yield
    rule = rule_of(item)
    if rule is None or call.excinfo is None:
        return report
    error = call.excinfo.value
    if isinstance(error, UnverifiedError):
        report.longrepr = f"{rule.id} is not verified: {error}"
        return report
    blamed = item.config.stash[origins_key].blame(error)
    if isinstance(error, FixtureError) or blamed:
        report.outcome = "failed"
        report.longrepr = _tell_of_fixture(item, rule, call, blamed)
    elif report.failed:
        report.longrepr = _tell_of_failure(item, rule, call)
    return report


def _history_of(item: pytest.Item) -> History:
    """That of a test, with what was logged up to now."""
    history = item.stash.setdefault(history_key, History())
    if lines := item.stash[lines_key].take():
        history.add("logged", lines=lines)
    return history


def _tell_of_fixture(
    item: pytest.Item, rule: Rule, call: pytest.CallInfo[None], blamed: str | None
) -> str:
    """An author's error proves nothing of the adapter: the rule isn't verified."""
    if call.excinfo is None:
        raise AssertionError("it has failed")
    error = call.excinfo.value
    told = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    why = masked(
        item, str(error) if isinstance(error, FixtureError) else f"{blamed} failed: {told}"
    )
    trace = traced(error, lambda text: masked(item, text))
    if isinstance(error, pytest.skip.Exception):
        why, trace = masked(item, f"{blamed} skipped it: {error}"), ""
    _history_of(item).add("unverified", when=call.when, why=why, trace=trace)
    return f"{rule.id} is not verified: {why}\n\n{trace}".rstrip()


def _tell_of_failure(item: pytest.Item, rule: Rule, call: pytest.CallInfo[None]) -> str:
    if call.excinfo is None:
        raise AssertionError("it has failed")
    history = _history_of(item)
    text = masked(item, f"{call.excinfo.typename}: {call.excinfo.value}")
    history.add("failed", when=call.when, text=text)
    lines = [line for event in history.named("logged") for line in event.what["lines"]]
    events = [event for event in history.events if event.name != "logged"]
    return "\n".join(
        [
            f"{rule.id}: {rule.text}",
            "",
            f"  {text.partition(': ')[2]}",
            "",
            "  the last of what happened:",
            *(f"  {describe(event)}" for event in events[-MOST_EVENTS:]),
            *(["", "  logged meanwhile:", *(f"  {line}" for line in lines)] if lines else []),
            "",
            f"  again: pytest --pyargs offload_conformance --offload-url URL --rule {rule.id}",
        ]
    )
