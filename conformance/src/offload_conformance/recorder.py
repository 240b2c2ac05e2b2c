"""Collects the histories of a run, and shows how far it is."""

from __future__ import annotations

from collections import defaultdict
from typing import Self

import pytest
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from offload_conformance.certificate import TestRecord, make_record
from offload_conformance.history import History
from offload_conformance.plugin import history_key, rule_of
from offload_conformance.verdicts import Verdict, worst


class Recorder:
    """A pytest plugin of one run."""

    def __init__(self, console: Console) -> None:
        self.tests: defaultdict[str, list[TestRecord]] = defaultdict(list)
        self.errors: list[str] = []
        self.faults: dict[str, str] = {}
        """Failures of the author's fixtures, each with its traceback."""
        self.cut = False
        """Whether the run ended before all tests for such a failure."""
        self._console = console
        self._rule: str | None = None
        """The one whose tests run, where each is told with a line."""
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._bar = self._progress.add_task("collecting", total=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
        self._begin(None)

    def _begin(self, rule: str | None) -> None:
        """Where no bar can move, tell of each rule whose tests are over."""
        if self._rule not in (rule, None) and not self._console.is_terminal:
            verdict = worst(Verdict(test.verdict) for test in self.tests[self._rule])
            self._console.print(f"{self._rule}: {verdict}")
        self._rule = rule

    def pytest_configure(self, config: pytest.Config) -> None:
        """Let pytest not search for the source of a failure, which the kit tells in its words."""
        config.option.tbstyle = "native"

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """What can't be imported can't be proved."""
        if report.failed:
            self.errors.append(report.longreprtext)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Now the number of tests is known."""
        self._progress.update(self._bar, total=len(session.items))

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Show which test runs."""
        self._progress.update(self._bar, description=nodeid.rpartition("::")[2][:40].ljust(40))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> object:
        """Take the history of a test when it is over."""
        rule = rule_of(item)
        if rule is not None:
            self._begin(rule.id)
        done = yield
        history = item.stash.get(history_key, None)
        if rule is not None and history is not None:
            seconds = history.events[-1].at if history.events else 0.0
            self.tests[rule.id].append(make_record(item.name, seconds, list(history.events)))
            self._note_faults(item.session, history)
        self._progress.advance(self._bar)
        return done

    def _note_faults(self, session: pytest.Session, history: History) -> None:
        """Keep what failed of the author's. Without their fixtures every other test fails alike."""
        for event in history.named("unverified"):
            if trace := event.what.get("trace"):
                self.faults.setdefault(event.what["why"], trace)
                if event.what["when"] == "setup":
                    session.shouldfail = event.what["why"]
                    self.cut = True
