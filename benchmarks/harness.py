"""Rounds that take turns, each measurement in a fresh process.

Two numbers that were taken apart can't be compared on a machine that does
other work as well. So every contestant has its turn in round 1, then every
one in round 2, and only medians over the rounds are set against each other.
A fresh process, because a heap full of the last measurement's garbage, or a
task that it left behind, is no property of the next one.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

Values: TypeAlias = dict[str, float]
"""What one measurement found, by the name of its measure."""

CHECKOUT = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True)
class Run:
    """A call of a module-level function, to be made in a process of its own."""

    function: Callable[..., Values]
    options: Mapping[str, object] = field(default_factory=dict)
    """Its keyword arguments, of types that JSON has."""
    seconds: float = 1800
    """It may take no longer: who hangs tells where, and nobody waits for ever."""

    def __call__(self) -> Values:
        """Start the process, and wait for what it found.

        Raises:
            RuntimeError: it failed, with what it wrote.
        """
        name = f"{self.function.__module__}:{self.function.__name__}"
        call = [name, json.dumps(self.options), str(self.seconds)]
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.child", *call],
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{name} {dict(self.options)} failed:\n{done.stderr}")
        values: Values = json.loads(done.stdout.splitlines()[-1])
        return values


@dataclass(frozen=True, slots=True)
class Contestant:
    """Whoever takes part, with what it promises: speed means little without."""

    name: str
    runs: Sequence[Run]
    guarantee: str = ""


class Samples:
    """Everything that was measured: the values of all rounds, by contestant and measure."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, str], list[float]] = {}

    def add(self, contestant: str, values: Values) -> None:
        """Add what one run found."""
        for measure, value in values.items():
            self._values.setdefault((contestant, measure), []).append(value)

    def update(self, others: Samples) -> None:
        """Add all of another's."""
        for key, values in others._values.items():
            self._values.setdefault(key, []).extend(values)

    def has(self, contestant: str, measure: str) -> bool:
        """Whether it took part in this."""
        return (contestant, measure) in self._values

    def all(self, contestant: str, measure: str) -> list[float]:
        """One value for each round."""
        return self._values[contestant, measure]

    def median(self, contestant: str, measure: str) -> float:
        """The number that ratios are made of."""
        return statistics.median(self._values[contestant, measure])

    def as_dict(self) -> dict[str, dict[str, list[float]]]:
        """For a JSON file."""
        found: dict[str, dict[str, list[float]]] = {}
        for (contestant, measure), values in self._values.items():
            found.setdefault(contestant, {})[measure] = values
        return found


def take_turns(
    contestants: Sequence[Contestant], rounds: int, between: Callable[[], None] = lambda: None
) -> Samples:
    """Round after round, one run of each contestant after the other.

    Before each, `between` takes away what the last one left.
    """
    samples = Samples()
    most_runs = max(len(contestant.runs) for contestant in contestants)
    for number in range(1, rounds + 1):
        # Run by run, so that what will be compared is measured next to each other.
        for index in range(most_runs):
            for contestant in contestants:
                if index < len(contestant.runs):
                    tell(f"round {number}/{rounds}: {contestant.name}")
                    between()
                    samples.add(contestant.name, contestant.runs[index]())
    return samples


def tell(progress: str) -> None:
    """Say where we are, beside the tables on stdout."""
    print(progress, file=sys.stderr, flush=True)


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that so many percent don't exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]
