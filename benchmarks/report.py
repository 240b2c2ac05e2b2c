"""Tables in Markdown, and whether the targets are met."""

from __future__ import annotations

import os
import platform
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from benchmarks.harness import Contestant, Run, Samples, take_turns


@dataclass(frozen=True, slots=True)
class Target:
    """A ratio of two medians, and what it should be."""

    what: str
    ours: tuple[str, str]
    """A contestant and a measure."""
    theirs: Sequence[tuple[str, str]]
    """The peers, of which the best counts: the one with the highest median."""
    at_least: float | None = None
    at_most: float | None = None

    @property
    def wish(self) -> str:
        """The bound, in words."""
        if self.at_least is not None:
            return f"≥ {self.at_least:g}"
        return "-" if self.at_most is None else f"≤ {self.at_most:g}"

    def is_met(self, ratio: float) -> bool | None:
        """None if there is no bound: the ratio is only shown."""
        if self.at_least is not None:
            return ratio >= self.at_least
        return None if self.at_most is None else ratio <= self.at_most


@dataclass(slots=True)
class Report:
    """What one suite found: the text to print, and the raw values."""

    title: str
    parts: list[str] = field(default_factory=list)
    samples: Samples = field(default_factory=Samples)
    verdicts: list[dict[str, object]] = field(default_factory=list)

    def take_turns(
        self, runs: Mapping[str, Run], rounds: int, between: Callable[[], None] = lambda: None
    ) -> None:
        """Measure one thing, so that what is compared is measured next to each other."""
        contestants = [Contestant(name, [run]) for name, run in runs.items()]
        self.samples.update(take_turns(contestants, rounds, between))

    def say(self, text: str) -> None:
        """Add a paragraph."""
        self.parts.append(text)

    def table(self, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Add a table."""
        lines = [header, ["---"] * len(header), *rows]
        self.parts.append("\n".join("| " + " | ".join(line) + " |" for line in lines))

    def measures(
        self,
        contestants: Sequence[Contestant],
        measures: Sequence[str],
        show: Callable[[float], str],
    ) -> None:
        """Add a table with a row for each contestant: median (min to max) of the rounds."""
        guarantees = any(contestant.guarantee for contestant in contestants)
        rows = []
        for contestant in contestants:
            row = [contestant.name]
            for measure in measures:
                taken = self.samples.has(contestant.name, measure)
                row.append(self._cell(contestant.name, measure, show) if taken else "-")
            rows.append([*row, contestant.guarantee] if guarantees else row)
        self.table(["", *measures, *(["guarantee"] if guarantees else [])], rows)

    def _cell(self, contestant: str, measure: str, show: Callable[[float], str]) -> str:
        values = self.samples.all(contestant, measure)
        median = show(self.samples.median(contestant, measure))
        if len(values) == 1:
            return median
        return f"{median} ({show(min(values))}-{show(max(values))})"

    def targets(self, targets: Sequence[Target]) -> None:
        """Add a table of ratios of medians, the best peer in the denominator.

        Beside them the ratios of the best rounds, which other work on the machine hardly touches.
        """
        rows = []
        for target in targets:
            best = max(target.theirs, key=lambda peer: self.samples.median(*peer))
            ratio = self.samples.median(*target.ours) / self.samples.median(*best)
            met = target.is_met(ratio)
            peer = ", ".join(part for part in best if part not in target.ours)
            choose = min if target.at_most is not None else max
            quiet = choose(self.samples.all(*target.ours)) / choose(self.samples.all(*best))
            answer = {True: "yes", False: "**no**", None: "-"}[met]
            rows.append([target.what, peer, f"{ratio:.2f}", f"{quiet:.2f}", target.wish, answer])
            self.verdicts.append(
                {"what": target.what, "ratio": ratio, "target": target.wish, "met": met}
            )
        self.table(["", "against", "ratio of medians", "of best rounds", "target", "met"], rows)

    def bounds(self, ours: str, earliest: Sequence[str], bounds: Mapping[str, float]) -> None:
        """Add a table of what counts in milliseconds, not beside a peer; never early, above all."""
        first = min(min(self.samples.all(ours, measure)) for measure in earliest)
        rows = [["earliest of all", f"{first:.2f}", "≥ 0", self._answer("earliest", first >= 0)]]
        for measure, bound in bounds.items():
            median = self.samples.median(ours, measure)
            answer = self._answer(f"{measure} ≤ {bound:g} ms", median <= bound)
            rows.append([measure, decimals(median), f"≤ {bound:g}", answer])
        self.table([ours, "ms", "target", "met"], rows)

    def _answer(self, what: str, met: bool) -> str:
        self.verdicts.append({"what": what, "met": met})
        return "yes" if met else "**no**"

    def __str__(self) -> str:
        return "\n\n".join([f"## {self.title}", *self.parts])


def whole(value: float) -> str:
    """12,345."""
    return f"{value:,.0f}"


def decimals(value: float) -> str:
    """1.23."""
    return f"{value:,.2f}"


def environment() -> dict[str, str]:
    """What the numbers depend on."""
    cpu = platform.processor() or platform.machine()
    cpu_info = Path("/proc/cpuinfo")
    if cpu_info.exists():
        models = [
            line.partition(":")[2].strip()
            for line in cpu_info.read_text().splitlines()
            if line.startswith("model name")
        ]
        cpu = models[0] if models else cpu
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return {
        "cpu": f"{os.cpu_count()} cores of {cpu}",
        "load at the start": f"{load:.2f}",
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "sqlite": sqlite3.sqlite_version,
        **{name: version(name) for name in ("offload-core", "msgspec", "huey", "taskiq")},
    }
